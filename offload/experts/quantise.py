"""From the experts of a checkpoint to those of a packed store in fewer bits, one at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.architecture import build_empty, read_architecture
from offload.checkpoint.base import TensorInfo
from offload.checkpoint.groups import lay_out
from offload.experts.bind import experts_modules
from offload.experts.codecs.base import Matrix
from offload.experts.codecs.registry import codec_of
from offload.experts.codecs.stored import StoredMatrix
from offload.experts.layout import ExpertLayout, encoded_name, matrix_names, matrix_shape
from offload.experts.names import CheckpointNames
from offload.experts.precision import Precisions
from offload.weights.binding import tensor_view
from tiers.block import ExpertKey
from tiers.errors import ModelError
from tiers.weight_tier import STORED, GroupKind, TensorSpec, WeightGroup


class GroupReader(Protocol):
    """Reads the tensors of a group from a checkpoint."""

    def read(self, group: WeightGroup, spec: TensorSpec) -> Iterator[NDArray[np.uint8]]: ...


class ExpertQuantiser:
    """Lays out and encodes the experts among ``stored``, the groups of the checkpoint at ``model``.

    ``errors`` collects, for experts and for their copies in a lower precision, the error of the matrices of the first
    of each layer that was read, relative to their size (root mean squares). Raises ModelError where there are no
    experts, or of shapes that the kernels cannot take.
    """

    def __init__(self, model: Path, stored: Sequence[WeightGroup], precisions: Precisions) -> None:
        architecture = read_architecture(model)
        empty = build_empty(architecture.config, architecture.model_class, torch.float32)
        self._names = CheckpointNames(empty)
        self._modules = experts_modules(empty)
        self._precisions = precisions
        self._stored = {group.key: group for group in stored if group.kind == "expert"}
        if not self._stored or not self._modules:
            raise ModelError(f"{model}: has no routed experts; --experts is for mixtures of experts")
        self.groups = [made for group in stored for made in self._made_from(group)]
        self.errors: dict[GroupKind, dict[int, float]] = {"expert": {}, "low_expert": {}}

    def reader(self, checkpoint: GroupReader) -> GroupReader:
        """Reads ``groups``: experts encoded, everything else as ``checkpoint`` does."""
        return _EncodingReader(checkpoint, self)

    def stored_group(self, encoded: WeightGroup) -> WeightGroup:
        """What an expert of ``groups`` is made from."""
        assert isinstance(encoded.key, ExpertKey)
        return self._stored[_stored_key(encoded.key)]

    def encode(self, encoded: WeightGroup, buffer: memoryview) -> dict[str, Tensor]:
        """The tensors of an expert of ``groups`` by name; ``buffer`` holds its ``stored_group``."""
        assert isinstance(encoded.key, ExpertKey)
        stored, key = self.stored_group(encoded), encoded.key
        name, module = self._modules[key.layer]
        layout = ExpertLayout.of(stored, name, module, self._names)
        weights = layout.views(buffer)
        up, down = matrix_names(module)
        tensors: dict[str, Tensor] = {}
        wrong = total = 0.0
        errors = self.errors[encoded.kind]
        is_measured = key.layer not in errors  # decoding takes longer than encoding
        for role, pieces in ((up, weights.up), (down, (weights.down,))):
            weight = torch.cat([_as_float(piece) for piece in pieces])
            codec = codec_of(key.precision)
            parts = codec.encode(weight)
            if is_measured:
                wrong += float((codec.decode(parts) - weight).square().sum())
                total += float(weight.square().sum())
            for part, tensor in zip(codec.parts(*weight.shape), parts, strict=True):
                tensors[encoded_name(name, key, role, part.name)] = tensor
        for role, bias in ((f"{up}_bias", layout.up_bias), (f"{down}_bias", layout.down_bias)):
            if bias is not None:
                tensors[encoded_name(name, key, role)] = tensor_view(buffer, bias)
        if is_measured:
            errors[key.layer] = (wrong / max(total, 1e-30)) ** 0.5
        return tensors

    def _made_from(self, stored: WeightGroup) -> Iterator[WeightGroup]:
        if not isinstance(stored.key, ExpertKey):
            yield stored
            return
        precision = self._precisions.of(stored.key)
        yield stored if precision == STORED else self._encoded_group(stored, precision, "expert")
        if self._precisions.low is not None:
            yield self._encoded_group(stored, self._precisions.low, "low_expert")

    def _encoded_group(self, stored: WeightGroup, precision: str, kind: GroupKind) -> WeightGroup:
        assert isinstance(stored.key, ExpertKey)
        if stored.key.layer not in self._modules:
            raise ModelError(f"{stored.key.name}: the model does not compute it through the experts interface")
        key = ExpertKey(stored.key.layer, stored.key.expert, precision)
        name, module = self._modules[key.layer]
        layout = ExpertLayout.of(stored, name, module, self._names)
        infos = [
            TensorInfo(encoded_name(name, key, role, part.name), part.dtype, part.shape)
            for role in matrix_names(module)
            for part in codec_of(key.precision).parts(*matrix_shape(module, role))
        ]
        up, down = matrix_names(module)
        for role, bias in ((f"{up}_bias", layout.up_bias), (f"{down}_bias", layout.down_bias)):
            if bias is not None:
                infos.append(TensorInfo(encoded_name(name, key, role), bias.dtype, bias.shape))
        specs, nbytes = lay_out(infos)
        return WeightGroup(key, kind, specs, nbytes)


class _EncodingReader:
    """Encodes an expert when its first tensor is asked for, and keeps it until the next one's is."""

    def __init__(self, checkpoint: GroupReader, quantiser: ExpertQuantiser) -> None:
        self._checkpoint = checkpoint
        self._quantiser = quantiser
        self._held: tuple[WeightGroup, dict[str, Tensor]] | None = None

    def read(self, group: WeightGroup, spec: TensorSpec) -> Iterator[NDArray[np.uint8]]:
        if not isinstance(group.key, ExpertKey) or group.key.precision == STORED:
            yield from self._checkpoint.read(group, spec)
            return
        if self._held is None or self._held[0] is not group:
            self._held = None  # two at a time would be twice the memory
            self._held = group, self._quantiser.encode(group, self._load(self._quantiser.stored_group(group)))
        yield self._held[1][spec.name].contiguous().flatten().view(torch.uint8).numpy()

    def _load(self, stored: WeightGroup) -> memoryview:
        buffer = memoryview(bytearray(stored.nbytes))
        for spec in stored.tensors:
            position = spec.offset
            for piece in self._checkpoint.read(stored, spec):
                buffer[position : position + piece.nbytes] = piece.data
                position += piece.nbytes
        return buffer


def _stored_key(key: ExpertKey) -> ExpertKey:
    return ExpertKey(key.layer, key.expert, STORED)


def _as_float(matrix: Matrix) -> Tensor:
    assert isinstance(matrix, StoredMatrix)
    weight = matrix.weight.float()
    return weight.t().contiguous() if matrix.is_transposed else weight
