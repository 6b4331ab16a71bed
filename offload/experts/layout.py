"""How the weights of one expert lie in a slot, and what is computed with them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from offload.arenas import SlotBytes
from offload.experts.codecs.base import Codec, Matrix
from offload.experts.codecs.kernels import DEFAULT, Kernels
from offload.experts.codecs.registry import codec_of
from offload.experts.codecs.stored import StoredMatrix
from offload.experts.codecs.tiles import tiles_here
from offload.experts.names import CheckpointNames
from offload.experts.packed.matrix import PackedMatrix
from offload.experts.packed.products import products_on
from offload.weights.binding import tensor_view
from tiers.block import ExpertKey
from tiers.errors import ModelError
from tiers.weight_tier import STORED, TensorSpec, WeightGroup


def is_experts_module(module: nn.Module) -> bool:
    """Whether a module computes its experts through the experts interface of transformers."""
    return all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "is_concatenated"))


def matrix_names(module: nn.Module) -> tuple[str, str]:
    """The parameters of an experts module that are matrices: what goes up and what comes down."""
    return ("gate_up_proj" if module.has_gate else "up_proj"), "down_proj"


def check_experts(model: PreTrainedModel) -> None:
    """Raises ModelError where a model computes routed experts otherwise: nobody could keep them apart."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        has_weights = any(True for _ in module.parameters(recurse=False))
        if has_weights and "Expert" in kind and "Shared" not in kind and not is_experts_module(module):
            raise ModelError(
                f"it does not compute its experts through the experts interface of transformers ({name} is of {kind})"
            )


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """Views of a slot. ``up`` is one matrix or, where they are no neighbours there, gate and up."""

    up: tuple[Matrix, ...]
    up_bias: Tensor | None
    down: Matrix
    down_bias: Tensor | None

    def apply(self, module: Any, tokens: Tensor) -> Tensor:
        """What the expert makes of ``tokens`` [tokens, hidden], as its module in transformers would."""
        return self.down_of(module, activate(module, self.up_of(tokens)))

    def up_of(self, tokens: Tensor) -> Tensor:
        """[tokens, hidden] -> what ``activate`` takes, a row for each."""
        parts = [matrix.multiply(tokens) for matrix in self.up]
        inner = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return inner if self.up_bias is None else inner + self.up_bias

    def down_of(self, module: Any, inner: Tensor) -> Tensor:
        """What ``activate`` returned -> [tokens, hidden]."""
        output = self.down.multiply(inner)
        if self.down_bias is not None:
            output = output + self.down_bias
        return module.post_expert_norm(output) if getattr(module, "has_post_expert_norm", False) else output


def activate(module: Any, inner: Tensor) -> Tensor:
    """What lies between the matrices of an expert: the same for all of them, and row by row."""
    return module._apply_gate(inner) if module.has_gate else module.act_fn(inner)  # type: ignore[no-any-return]  # noqa: SLF001 - the interface's


@dataclass(frozen=True, slots=True)
class MatrixLayout:
    """The tensors that make up a matrix, as ``codec`` encodes it in ``tiles``; as it is stored without one."""

    specs: tuple[TensorSpec, ...]
    is_transposed: bool = False
    codec: Codec | None = None
    kernels: Kernels = DEFAULT
    tiles: str = ""

    def view(self, slot: SlotBytes) -> Matrix:
        """The matrix in a slot."""
        parts = [tensor_view(slot, spec) for spec in self.specs]
        if self.codec is None:
            return StoredMatrix(parts[0], self.is_transposed, self.kernels)
        products = products_on(parts[0].device)
        if products is None:
            return self.codec.matrix(parts, self.kernels)
        return PackedMatrix(self.codec.stack([part.unsqueeze(0) for part in parts], self.tiles), products)


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """Where the matrices and biases of one expert are in its slot."""

    up: tuple[MatrixLayout, ...]
    up_bias: TensorSpec | None
    down: MatrixLayout
    down_bias: TensorSpec | None

    @classmethod
    def of(
        cls,
        group: WeightGroup,
        module_name: str,
        module: nn.Module,
        names: CheckpointNames,
        kernels: Kernels = DEFAULT,
        tiles: Sequence[str] = (),
    ) -> "ExpertLayout":
        """Sort the tensors of ``group``, to multiply by with ``kernels``, which read ``tiles``, or this processor's.

        Raises ModelError where they are not those that the module has.
        """
        assert isinstance(group.key, ExpertKey)
        if group.key.precision == STORED:
            layout = _stored_layout(group, module_name, module, names)
        else:
            layout = _encoded_layout(
                group, module_name, module, codec_of(group.key.precision), tiles or (tiles_here(),)
            )
        up = tuple(replace(matrix, kernels=kernels) for matrix in layout.up)
        return replace(layout, up=up, down=replace(layout.down, kernels=kernels))

    def views(self, slot: SlotBytes) -> ExpertWeights:
        """The weights in a slot."""
        return ExpertWeights(
            up=tuple(matrix.view(slot) for matrix in self.up),
            up_bias=None if self.up_bias is None else tensor_view(slot, self.up_bias),
            down=self.down.view(slot),
            down_bias=None if self.down_bias is None else tensor_view(slot, self.down_bias),
        )


def matrix_shape(module: nn.Module, role: str) -> tuple[int, int]:
    """Outputs and inputs of one expert's matrix."""
    rows, columns = _shape(module, role)
    return (columns, rows) if module.is_transposed else (rows, columns)


def encoded_name(module_name: str, key: ExpertKey, role: str, part: str = "") -> str:
    """What a part of an encoded matrix is called in a packed store, or a bias beside it."""
    name = f"{module_name}.{key.expert}.{role}"
    return f"{name}.{key.precision}.{part}" if part else name


def _stored_layout(group: WeightGroup, module_name: str, module: Any, names: CheckpointNames) -> ExpertLayout:
    found: dict[str, dict[int, TensorSpec]] = {}
    for spec in group.tensors:
        place = names.place(spec.name)
        role = place.name.removeprefix(f"{module_name}.")
        if role not in module._parameters:  # noqa: SLF001 - to name what is wrong
            raise ModelError(f"{module_name} has no place for the tensor {spec.name}; is config.json its own?")
        is_row = len(spec.shape) == len(_shape(module, role)) + 1
        found.setdefault(role, {})[place.part] = replace(spec, shape=spec.shape[1:]) if is_row else spec
    up, down = matrix_names(module)
    for role in (up, down, *([f"{up}_bias", f"{down}_bias"] if module.has_bias else [])):
        _check(found.get(role, {}), _shape(module, role), group, f"{module_name}.{role}")
    ups = _joined([found[up][part] for part in sorted(found[up])])
    return ExpertLayout(
        up=tuple(MatrixLayout((spec,), module.is_transposed) for spec in ups),
        up_bias=found[f"{up}_bias"][0] if module.has_bias else None,
        down=MatrixLayout((found[down][0],), module.is_transposed),
        down_bias=found[f"{down}_bias"][0] if module.has_bias else None,
    )


def _encoded_layout(
    group: WeightGroup, module_name: str, module: nn.Module, codec: Codec, readable: Sequence[str]
) -> ExpertLayout:
    assert isinstance(group.key, ExpertKey)
    key, specs = group.key, {spec.name: spec for spec in group.tensors}

    def find(role: str, part: str = "") -> TensorSpec:
        spec = specs.get(encoded_name(module_name, key, role, part))
        if spec is None:
            what = f"{key.name}: no '{part or role}' of {key.precision} among its tensors"
            raise ModelError(f"{what}; the store was packed for another processor or model, pack it again here")
        return spec

    def matrix(role: str) -> MatrixLayout:
        shape = matrix_shape(module, role)
        of_first = [encoded_name(module_name, key, role, codec.parts(*shape, tiles)[0].name) for tiles in readable]
        tiles = next((tiles for tiles, name in zip(readable, of_first, strict=True) if name in specs), readable[0])
        parts = codec.parts(*shape, tiles)
        found = tuple(find(role, part.name) for part in parts)
        for part, spec in zip(parts, found, strict=True):
            if (part.dtype, part.shape) != (spec.dtype, spec.shape):
                raise ModelError(
                    f"{spec.name}: {spec.dtype} {spec.shape}, not {part.dtype} {part.shape}; pack it again"
                )
        return MatrixLayout(found, codec=codec, tiles=tiles)

    up, down = matrix_names(module)
    return ExpertLayout(
        up=(matrix(up),),
        up_bias=find(f"{up}_bias") if module.has_bias else None,
        down=matrix(down),
        down_bias=find(f"{down}_bias") if module.has_bias else None,
    )


def _shape(module: nn.Module, role: str) -> tuple[int, ...]:
    """Of one expert's share of a parameter."""
    parameter = module._parameters[role]  # noqa: SLF001 - this module's own, by name
    assert parameter is not None
    return tuple(parameter.shape[1:])


def _check(parts: dict[int, TensorSpec], shape: tuple[int, ...], group: WeightGroup, what: str) -> None:
    rows = sum(spec.shape[0] for spec in parts.values())
    if not parts or (rows, *next(iter(parts.values())).shape[1:]) != shape:
        found = ", ".join(f"{spec.name} {spec.shape}" for spec in parts.values()) or "nothing"
        raise ModelError(f"{group.key.name}: {what} has the shape {shape} for one expert, the checkpoint has {found}")


def _joined(parts: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Matrices that lie one after the other are one matrix."""
    first, *others = parts
    position, rows = first.offset + first.nbytes, first.shape[0]
    for spec in others:
        if spec.offset != position or spec.shape[1:] != first.shape[1:]:
            return tuple(parts)
        position, rows = position + spec.nbytes, rows + spec.shape[0]
    return (replace(first, shape=(rows, *first.shape[1:])),)
