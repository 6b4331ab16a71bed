"""Which of torch's kernels are used on a device: only those that were found to be right there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from offload.attention import kernels

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
