"""Operations of the device: done by the processor, once it is clear that the device would do them."""

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from tests.pretended import memory, streams
from tests.pretended.operations import OPERATIONS
from tests.pretended.tensors import inner_of, on_device

_aten = torch.ops.aten
_MAY_MIX = {_aten.index.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default}
"""Here the indices may be in the host."""
_WAITED_FOR = {_aten._local_scalar_dense.default, _aten.nonzero.default, _aten._unique2.default}
"""By the host, for what comes out of them or how much."""


def compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As the device would, on the current stream. Raises RuntimeError for tensors of several devices."""
    waits = func in _WAITED_FOR
    if func is _aten.copy_.default:
        waits = _check_copy(*args, **kwargs)
    elif func not in _MAY_MIX:
        check_devices(func, args, kwargs)
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if not func.is_view:
        streams.used(str(func), *_reads_and_writes(func, args, kwargs), waits=waits)
    result = OPERATIONS.get(func, func)(*tree_map(inner_of, args), **tree_map(inner_of, kwargs))
    if args and isinstance(args[0], torch.Tensor) and result is inner_of(args[0]):
        return args[0]  # in place
    return tree_map(on_device, result)


def check_devices(func: Any, args: Any, kwargs: Any) -> None:
    """Raises RuntimeError, as CUDA does, where tensors are on several devices; single numbers may be."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    if any(tensor.is_cuda for tensor in tensors) and any(not tensor.is_cuda and tensor.dim() for tensor in tensors):
        found = ", ".join(str(tensor.device) for tensor in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {found}")


def _check_copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> bool:
    """Whether the host waits for a copy."""
    if target.is_cuda == source.is_cuda:
        return False
    if non_blocking:
        memory.check_locked(source if target.is_cuda else target)
    return not non_blocking


def _reads_and_writes(func: Any, args: Any, kwargs: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    reads: list[torch.Tensor] = []
    writes: list[torch.Tensor] = []
    arguments = func._schema.arguments
    given = {**dict(zip([argument.name for argument in arguments], args, strict=False)), **kwargs}
    for argument in arguments:
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        leaves = tree_leaves(given.get(argument.name))
        (writes if is_written else reads).extend(inner_of(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))
    return reads, writes
