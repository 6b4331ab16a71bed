"""The kernel that copies many small ranges: interpreted on the processor, and compiled for GPUs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.compiled import check_fits, compile_for, needs_compiler, on_every_gpu
from tests.interpreted import needs_interpreter, run_interpreted


def check(count: int, most_nbytes: int, *, is_even: bool, multiple: int) -> None:
    """Ranges in any order to places in any order; what lies between them is left alone."""
    from tiers.scatter_kernel import copy_runs

    random = np.random.default_rng(count)
    slot = most_nbytes + 64
    sizes = (
        np.full(count, most_nbytes) if is_even else random.integers(1, most_nbytes // multiple + 1, count) * multiple
    )
    starts, places = (random.permutation(count) * slot + multiple for _ in range(2))
    source = torch.from_numpy(random.integers(1, 256, count * slot, np.uint8))
    target = torch.zeros(count * slot, dtype=torch.uint8)
    expected = target.clone()
    for start, place, nbytes in zip(starts, places, sizes, strict=True):
        expected[place : place + nbytes] = source[start : start + nbytes]
    copy_runs(source, target, np.stack([starts, places, sizes], 1), torch.empty((count + 3, 3), dtype=torch.int64))
    assert torch.equal(target, expected), (count, most_nbytes, is_even, multiple)


def check_all() -> None:
    for multiple in (8, 16):
        for count, nbytes in ((1, 64), (70, 8192), (9, 40960), (80, 512)):
            check(count, nbytes, is_even=multiple == 16, multiple=multiple)
        check(40, 4096, is_even=False, multiple=multiple)


@needs_interpreter
def test_ranges_arrive_as_they_left() -> None:
    run_interpreted(__name__)


@needs_compiler
@on_every_gpu
@pytest.mark.parametrize("words", [64, 2048])
def test_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: int, words: int) -> None:
    """Of the shortest rows, and of the longest."""
    from tiers.scatter_kernel import _WORDS, _copy_rows

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"ROWS": _WORDS // words, "WORDS": words, "ALIGNMENT": 16}
    check_fits(capability, compile_for(capability, _copy_rows, {"table": "*i64", "num_rows": "i32"}, constants))
