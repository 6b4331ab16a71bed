"""Many small ranges in one operation of the device: a kernel that reads and writes pinned host memory itself.

Imported where it is used only: Triton comes with torch on some machines and not on others.
"""

import numpy as np
import torch
import triton
import triton.language as tl

from tiers.copies import Runs

_WORDS = 2048
_PROGRAMS = 32
"""Enough reads of host memory under way to fill the link; more slow down a model that computes beside it."""
_PROGRAMS_TO_HOST = 16
"""Writes need nobody to wait for them, so half as many do."""


def copy_runs(source: torch.Tensor, target: torch.Tensor, runs: Runs, table: torch.Tensor) -> None:
    """Start copying runs of whole words on the current stream, which reads ``table`` until that has ended.

    One of the tensors is on the current CUDA device, the other there too or in pinned memory.
    """
    np.add(runs, (source.data_ptr(), target.data_ptr(), 0), out=table.numpy()[: len(runs)])
    programs = _PROGRAMS if target.is_cuda else _PROGRAMS_TO_HOST
    _copy_rows[(min(len(runs), programs),)](table, len(runs), WORDS=_WORDS, num_warps=4)


@triton.jit  # type: ignore[untyped-decorator]
def _copy_rows(table, num_rows, WORDS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, N803
    """Each program copies rows (source address, target address, bytes) of the table, WORDS words at a time."""
    lanes = tl.arange(0, WORDS)
    for row in range(tl.program_id(0), num_rows, tl.num_programs(0)):
        source = tl.load(table + 3 * row).to(tl.pointer_type(tl.int64))
        target = tl.load(table + 3 * row + 1).to(tl.pointer_type(tl.int64))
        num_words = tl.load(table + 3 * row + 2) // 8
        for start in range(0, num_words, WORDS):
            inside = start + lanes < num_words
            words = tl.load(source + start + lanes, mask=inside)
            tl.store(target + start + lanes, words, mask=inside)
