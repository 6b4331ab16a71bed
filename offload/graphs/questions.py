"""What a graph cannot hold, found before it is captured.

A capture that fails half-way leaves torch's allocator and its random numbers as if it still went on.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_ASKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
"""Have an output of unknown shape where they are given masks."""
_FROM_PYTHON = {_aten.lift_fresh, _aten.lift_fresh_copy}
"""Tensors made of numbers in Python."""


def check_capturable(operator: Any, taken: Sequence[object], given: Sequence[object], device: torch.device) -> None:
    """Raises RuntimeError for a call of an operator that waits for ``device``, or whose numbers come from the host.

    ``taken`` and ``given`` are all its arguments and results, among them tensors.
    """
    inputs = [leaf for leaf in taken if isinstance(leaf, Tensor)]
    outputs = [leaf for leaf in given if isinstance(leaf, Tensor)]
    packet = operator.overloadpacket
    if packet in _INDEXING:
        asks = any(tensor.dtype in (torch.bool, torch.uint8) for tensor in inputs[1:])
    else:
        asks = bool(_ASKS & set(operator.tags))
    copies = packet in _FROM_PYTHON and any(tensor.device == device for tensor in outputs)
    # A single number of the host is handed over with the launch of a kernel.
    moves = {tensor.device for tensor in (*inputs, *outputs) if tensor.dim() or packet in (_aten.copy_, _aten._to_copy)}  # noqa: SLF001
    if asks or copies or len(moves) > 1:
        raise RuntimeError(f"{operator} waits for the device or for the host")


class NoQuestions(TorchDispatchMode):
    """While it is entered, such calls raise RuntimeError."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        check_capturable(func, tree_leaves((args, kwargs)), tree_leaves(result), self._device)
        return result
