"""A stand-in for CUDA graphs on the processor: what a step did to which memory, done again without any Python of it.

As a capture on CUDA it knows addresses and numbers only: whatever the host worked out while it recorded is in there for
good, and what would wait for the device, or ask it for a number, is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from offload.graphs.questions import check_capturable

_aten = torch.ops.aten
_EMPTY = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided}
_READS = {
    getattr(Tensor, name)
    for name in ("tolist", "item", "numpy", "cpu", "__array__", "__bool__", "__int__", "__float__", "__index__")
}


@dataclass(frozen=True)
class Operation:
    """``taken`` are the tensors among the arguments, ``given`` those that come out."""

    function: Any
    taken: Sequence[Callable[[], Tensor | None]]
    rest: Sequence[Any]
    spec: Any
    given: Sequence[Tensor]

    def replay(self) -> None:
        tensors = [take() for take in self.taken]
        assert all(tensor is not None for tensor in tensors), f"{self.function} reads memory that was given back"
        values = iter(tensors)
        args, kwargs = tree_unflatten([next(values) if leaf is _TENSOR else leaf for leaf in self.rest], self.spec)
        again = [leaf for leaf in tree_leaves(self.function(*args, **kwargs)) if isinstance(leaf, Tensor)]
        for old, new in zip(self.given, again, strict=True):
            if old.untyped_storage().data_ptr() == new.untyped_storage().data_ptr():
                continue  # a view of what was there, or written in place
            old.copy_(new)
            if self.function.overloadpacket in _EMPTY and old.is_floating_point():
                old.fill_(torch.nan)


_TENSOR = object()


class _NoReads(TorchFunctionMode):
    """Reads of a processor's tensor that do not come by an operator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            raise RuntimeError(f"{func.__name__} waits for the device")
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._made: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, spec = tree_flatten((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        result = func(*args, **(kwargs or {}))
        check_capturable(func, leaves, tree_leaves(result), torch.device("cpu"))
        given = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        # What the step made is kept; all else has to be kept by whoever owns it.
        taken = [(lambda t=t: t) if id(t) in self._made else weakref.ref(t) for t in tensors]
        rest = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.operations.append(Operation(func, taken, rest, spec, given))
        foreign = {id(tensor) for tensor in tensors} - self._made.keys()
        self._made |= {id(tensor): tensor for tensor in given if id(tensor) not in foreign}
        return result


@dataclass(frozen=True)
class RecordedGraph:
    """See offload.graphs.backend.Graph."""

    output: Tensor
    operations: Sequence[Operation]

    def replay(self) -> None:
        with torch.inference_mode():
            for operation in self.operations:
                operation.replay()


class RecordedGraphs:
    """See offload.graphs.backend.GraphBackend."""

    def __init__(self, nbytes: int = 0) -> None:
        self.nbytes = nbytes
        self.graphs: list[RecordedGraph] = []

    def capture(self, step: Callable[[], Tensor]) -> RecordedGraph:
        step()
        recorder = _Recorder()
        with _NoReads(), recorder:
            output = step()
        for made in recorder._made.values():
            if made.is_floating_point() and not made._is_view():
                made.fill_(torch.nan)  # a replay starts with whatever is there
        self.graphs.append(RecordedGraph(output, recorder.operations))
        return self.graphs[-1]


def plain_pieces(query: Tensor, keys: Tensor, values: Tensor, pieces: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """As ``attend_pieces`` of the kernel, by operators that need to know no length."""
    heads, kv_heads, longest = query.shape[1], keys.shape[1], 256
    tokens = pieces[..., :1] + torch.arange(longest, device=query.device)
    inside = (tokens < pieces[..., 1:]).flatten(1)  # [rows, pieces * longest]
    place = tokens.flatten(1).clamp(0, len(keys) - 1)
    key, value = (arena[place].float().masked_fill(~inside[..., None, None], 0.0) for arena in (keys, values))
    asked = query.float().unflatten(1, (kv_heads, heads // kv_heads))
    scores = torch.einsum("rghd,rtgd->rght", asked, key) * scale
    scores = scores.masked_fill(~inside[:, None, None], -torch.inf).unflatten(-1, (-1, longest)).flatten(1, 2)
    logsumexps = scores.logsumexp(-1).transpose(1, 2)  # [rows, pieces, heads]
    weights = torch.nan_to_num(scores.softmax(-1)).unflatten(1, (kv_heads, heads // kv_heads))
    value = value.unflatten(1, (-1, longest))
    outputs = torch.einsum("rghpt,rptgd->rpghd", weights, value).flatten(2, 3)
    return outputs, logsumexps
