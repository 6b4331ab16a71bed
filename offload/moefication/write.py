"""The mixture as a checkpoint that transformers loads: dense parts straight from the source, the rest made."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig

from offload.checkpoint.base import PIECE_NBYTES, Checkpoint, TensorInfo
from offload.moefication.feed_forward import MixedFeedForward
from tiers.errors import ModelError

_TORCH_DTYPES: Final = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_FEED_FORWARD = re.compile(r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight")
_QUERY_BIAS = re.compile(r"(model\.layers\.\d+\.self_attn\.)q_proj\.bias")


class MoeCheckpoint(Checkpoint):
    """A mixture as if it lay on disk, in the types of ``source``, under the names of GraniteMoeShared's checkpoints.

    Makes one tensor at a time. ``close`` leaves ``source`` open. ModelError for a type that is not a plain float.
    """

    def __init__(self, source: Checkpoint, config: PreTrainedConfig, layers: Mapping[int, MixedFeedForward]) -> None:
        self.path = source.path
        self.config = config.to_dict()
        self.fingerprint = source.fingerprint
        self._source = source
        self._config = config
        self._made: dict[str, Callable[[], Tensor]] = {}
        self.tensors = dict(self._list(layers))

    def read(self, name: str, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        if name not in self._made:
            yield from self._source.read(name, start, stop)
            return
        tensor = self._made[name]().detach().to(_TORCH_DTYPES[self.tensors[name].dtype]).contiguous()
        data = tensor.view(-1).view(torch.uint8).numpy()
        for begin in range(start, stop, PIECE_NBYTES):
            yield data[begin : min(stop, begin + PIECE_NBYTES)]

    def write_model_files(self, directory: Path) -> None:
        self._source.write_model_files(directory)
        self._config.save_pretrained(directory)

    def close(self) -> None:
        self._made = {}

    def _list(self, layers: Mapping[int, MixedFeedForward]) -> Iterator[tuple[str, TensorInfo]]:
        for name, info in self._source.tensors.items():
            if match := _FEED_FORWARD.fullmatch(name):
                # The whole mixture where the dense layer has its first matrix; the other two go into it.
                if match[2] == "gate":
                    yield from self._mixture(int(match[1]), layers[int(match[1])], info)
                continue
            yield name, info
            if match := _QUERY_BIAS.fullmatch(name):
                yield from self._output_bias(match[1] + "o_proj.bias", info.dtype)

    def _mixture(self, index: int, layer: MixedFeedForward, dense: TensorInfo) -> Iterator[tuple[str, TensorInfo]]:
        if dense.dtype not in _TORCH_DTYPES:
            raise ModelError(f"{self.path}: {dense.name} is {dense.dtype}; only F32, BF16 and F16 can be converted")
        shape, hidden = layer.shape, layer.gate.shape[1]
        size, prefix = shape.expert_neurons, f"model.layers.{index}."
        for name, sizes, make in (
            ("block_sparse_moe.input_linear.weight", (shape.experts, 2 * size, hidden), _experts_in),
            ("block_sparse_moe.output_linear.weight", (shape.experts, hidden, size), _experts_out),
            ("block_sparse_moe.router.layer.weight", (shape.experts, hidden), _router),
            ("shared_mlp.input_linear.weight", (2 * shape.shared, hidden), _shared_in),
            ("shared_mlp.output_linear.weight", (hidden, shape.shared), _shared_out),
        ):
            if 0 not in sizes:  # without shared neurons the model has no shared expert
                self._made[prefix + name] = partial(make, layer)
                yield prefix + name, TensorInfo(prefix + name, dense.dtype, sizes)

    def _output_bias(self, name: str, dtype: str) -> Iterator[tuple[str, TensorInfo]]:
        """Zeros where the source has biases everywhere but there."""
        if name not in self._source.tensors:
            hidden = self._config.hidden_size
            self._made[name] = partial(torch.zeros, hidden)
            yield name, TensorInfo(name, dtype, (hidden,))


def _experts_in(layer: MixedFeedForward) -> Tensor:
    shape = layer.shape
    parts = [part[shape.shared :].unflatten(0, (shape.experts, -1)) for part in (layer.gate, layer.up)]
    return torch.cat(parts, dim=1)


def _experts_out(layer: MixedFeedForward) -> Tensor:
    shape = layer.shape
    # The weights of the router's softmax add up to 1, ours to k.
    experts: Tensor = layer.down[:, shape.shared :].unflatten(1, (shape.experts, -1)).transpose(0, 1)
    return experts * shape.top_k


def _router(layer: MixedFeedForward) -> Tensor:
    return layer.router


def _shared_in(layer: MixedFeedForward) -> Tensor:
    return torch.cat([layer.gate[: layer.shape.shared], layer.up[: layer.shape.shared]])


def _shared_out(layer: MixedFeedForward) -> Tensor:
    return layer.down[:, : layer.shape.shared]
