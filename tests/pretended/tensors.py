"""Tensors that say they are on a CUDA device, and refuse what such tensors refuse.

Torch's own code sees a tensor of the processor, since one without CUDA knows no other; Python sees ``cuda:0``.
"""

from typing import Any, Self
from weakref import WeakValueDictionary

import torch
from torch.overrides import TorchFunctionMode

DEVICE = torch.device("cuda:0")

_alive: "WeakValueDictionary[int, DeviceTensor]" = WeakValueDictionary()


class DeviceTensor(torch.Tensor):
    """``inner``, a tensor of the processor, as if it were in a device's memory."""

    inner: torch.Tensor  # type: ignore[assignment]  # a method of torch that nobody needs here

    @staticmethod
    def __new__(cls: "type[Self]", inner: torch.Tensor) -> Self:
        form: dict[str, Any] = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        with torch.inference_mode(inner.is_inference()):  # what is a view of an older tensor is not of inference
            made: Self = torch.Tensor._make_wrapper_subclass(
                cls, inner.shape, **form, dtype=inner.dtype, device=inner.device
            )
        made.inner = inner
        _alive[id(made)] = made
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def get_device(self) -> int:
        return 0

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to the host")

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def is_pinned(self, *_: Any, **__: Any) -> bool:
        return False

    def pin_memory(self, *_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("cannot pin 'torch.cuda.ByteTensor' only dense CPU tensors can be pinned")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"on {DEVICE}: {self.inner!r}"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from tests.pretended.calls import call

        return call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        from tests.pretended.dispatch import compute

        return compute(func, args, kwargs or {})


class Pretence(TorchFunctionMode):
    """For calls that name the device, or page-locked memory, and have no tensor of one. Of one thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from tests.pretended.calls import call

        return call(func, args, kwargs or {})


def inner_of(value: Any) -> Any:
    """What it is for the processor."""
    return value.inner if isinstance(value, DeviceTensor) else value


def on_device(value: Any) -> Any:
    """What it is for Python."""
    return DeviceTensor(value) if isinstance(value, torch.Tensor) and not isinstance(value, DeviceTensor) else value


def allocated() -> int:
    """Bytes of the device that tensors look into."""
    storages = [tensor.inner.untyped_storage() for tensor in list(_alive.values())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
