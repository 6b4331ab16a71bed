"""Which of torch's kernels are used on a device: only those that were found to be right there."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from offload.attention import kernels, paged

CPU = torch.device("cpu")


def nothing(query: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """As a kernel that was compiled for another GPU: the answer is what was in its memory before."""
    return torch.zeros_like(query), torch.zeros(query.shape[:-1])


def missing(*_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """As for bfloat16 on a GPU that does not know it."""
    raise RuntimeError("cutlassF: no kernel found to launch!")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        pytest.param(kernels._flash_on_cpu, True, id="right"),
        pytest.param(nothing, False, id="silent"),
        pytest.param(missing, False, id="missing"),
    ],
)
def test_is_tried_out(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., Any], expected: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(kernels, "_efficient_on_cuda", kernel)
    assert kernels._has_efficient.__wrapped__(CPU, dtype) is expected


def test_a_lack_of_memory_is_no_flaw(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes up to whoever makes do with less, and the kernel is asked again."""

    def starved(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kernels, "_efficient_on_cuda", starved)
    with pytest.raises(torch.OutOfMemoryError):
        kernels._has_efficient.__wrapped__(CPU, torch.float32)
    module = ModuleType("offload.attention.paged_kernel")
    module.attend_pieces = starved  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(torch.OutOfMemoryError):
        paged._proven.__wrapped__(CPU, torch.float32, 2, 1, 24, 16)
