"""Calls of torch as Python makes them: what makes tensors on the device, takes them there, or locks memory for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from tests.pretended import memory, streams
from tests.pretended.dispatch import check_devices
from tests.pretended.tensors import DeviceTensor, inner_of, on_device

_LARGE_NBYTES = 4096
_MORE_THAN_THERE_IS = 2**40


def call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Whatever it is."""
    with torch._C.DisableTorchFunctionSubclass():
        handler = _CALLS.get(func)
        return _plain(func, args, kwargs) if handler is None else handler(func, args, dict(kwargs))


def _plain(func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    kwargs = dict(given)
    if kwargs.pop("pin_memory", False):
        return memory.lock(func(*args, **kwargs))
    device = kwargs.get("device")
    if _is_cuda(device):
        kwargs["device"] = torch.device("cpu")
        made = func(*tree_map(inner_of, args), **kwargs)
        if isinstance(made, torch.Tensor) and made.dtype is torch.uint8 and made.nbytes >= _LARGE_NBYTES:
            streams.watch(made)
        return on_device(made)
    if device is not None and args:
        args = (inner_of(args[0]), *args[1:])  # of new_empty and its like, in the host
    return func(*args, **kwargs)


def _is_cuda(device: Any) -> bool:
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


def _to(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """``Tensor.to`` with a device, a type, both or another tensor."""
    tensor, *rest = args
    options: dict[str, Any] = {"copy": kwargs.pop("copy", False)}
    other = kwargs.pop("other", None)
    if rest and isinstance(rest[0], torch.Tensor):
        other = rest.pop(0)
    if other is not None:
        rest = [other.device, other.dtype, *rest]
    parse: Any = torch._C._nn._parse_to
    device, dtype, is_async, form = parse(*rest, **kwargs)
    to_cuda = tensor.is_cuda if device is None else device.type == "cuda"
    options |= {"dtype": dtype or tensor.dtype} | ({} if form is None else {"memory_format": form})
    if tensor.is_cuda == to_cuda:
        if not to_cuda:
            return tensor.to(**options, **({} if device is None else {"device": device}))  # type: ignore[no-any-return]
        changed = tensor.inner.to(**options)
        if changed is tensor.inner:
            return tensor  # type: ignore[no-any-return]
        streams.used("a change of type", [tensor.inner], [])
        return DeviceTensor(changed)
    options["copy"] = True
    if to_cuda:
        if is_async:
            memory.check_locked(tensor)
        return DeviceTensor(tensor.detach().to(**options))
    streams.used("a copy to the host", [tensor.inner], [], waits=not is_async)
    return tensor.inner.to(**options, device=device)  # type: ignore[no-any-return]


def _set_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    target, value = args
    if isinstance(target, DeviceTensor) != isinstance(value, DeviceTensor):
        raise RuntimeError(f"the data of a tensor on {target.device} set to one on {value.device}")
    func(target, value)
    if isinstance(target, DeviceTensor):
        target.inner = value.inner


def _attention(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    check_devices(func, args, kwargs)
    result = func(*tree_map(inner_of, args), **tree_map(inner_of, kwargs))
    return on_device(result) if args[0].is_cuda else result


def _as_tensor(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """Also of memory of others, which is not copied."""
    if not hasattr(args[0], "__cuda_array_interface__") or isinstance(args[0], torch.Tensor):
        return _plain(torch.tensor, args, kwargs) if _is_cuda(kwargs.get("device")) else func(*args, **kwargs)  # type: ignore[no-any-return]
    made = torch.from_numpy(np.frombuffer(args[0].memory, np.uint8))
    streams.watch(made)
    return DeviceTensor(made)


def _empty(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if _is_cuda(kwargs.get("device")) and isinstance(args[0], int) and args[0] > _MORE_THAN_THERE_IS:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {args[0]} bytes.")
    return _plain(func, args, kwargs)


def _pin(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    (tensor,) = args
    return tensor if memory.is_locked(tensor) else memory.lock(tensor.clone())


_CALLS: dict[Any, Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]] = {
    torch.Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    torch.Tensor.is_pinned: lambda func, args, kwargs: memory.is_locked(args[0]),
    torch.Tensor.pin_memory: _pin,
    torch.Tensor.to: _to,
    torch.as_tensor: _as_tensor,
    torch.empty: _empty,
    torch.nn.functional.scaled_dot_product_attention: _attention,
}
