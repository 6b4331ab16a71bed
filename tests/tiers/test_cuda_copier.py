"""Which copies are left to a kernel, decided without a device."""

import numpy as np
import pytest
import torch

from tiers.cuda_copier import _is_scattered, _scatter_kernel

KIB = 1024


@pytest.mark.parametrize(
    ("count", "nbytes", "expected"),
    [
        pytest.param(300, 8 * KIB, True, id="many small"),
        pytest.param(8, 8 * KIB, False, id="a few, each by a copy of its own"),
        pytest.param(300, 512 * KIB, False, id="many large"),
        pytest.param(300, 8 * KIB + 4, False, id="no whole words"),
    ],
)
def test_many_small_ranges_of_whole_words(count: int, nbytes: int, expected: bool) -> None:
    starts = np.arange(count) * 2 * nbytes
    assert _is_scattered(np.stack([starts, starts[::-1], np.full(count, nbytes)], axis=1)) is expected


def test_says_why_the_kernel_is_not_used() -> None:
    """A processor has no memory that is locked for a device, nor an address of it for one."""
    scatter = _scatter_kernel(torch.device("cpu"))
    assert scatter.value is None
    assert scatter.flaw.startswith("its kernel, which Triton compiles, does not run (")
    assert "\n" not in scatter.flaw
