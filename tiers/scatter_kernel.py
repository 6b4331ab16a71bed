"""Many small ranges in one operation of the device: a kernel that reads and writes pinned host memory itself.

Imported where it is used only: Triton comes with torch on some machines and not on others.
"""

import numpy as np
import torch
import triton
import triton.language as tl

from tiers.copies import Runs

_WORDS = 2048
"""Words of eight bytes that a program has under way at once: of one row, or of several where they are short."""
_LEAST_WORDS = 64
"""Of a row. Shorter ones waste the rest."""
_PROGRAMS = 32
"""Enough reads of host memory under way to fill the link; more slow down a model that computes beside it."""
_PROGRAMS_TO_HOST = 16
"""Writes need nobody to wait for them, so half as many do."""


def copy_runs(source: torch.Tensor, target: torch.Tensor, runs: Runs, table: torch.Tensor) -> None:
    """Start copying runs of whole words on the current stream, which reads ``table`` until that has ended.

    One of the tensors is on the current CUDA device, the other there too or in pinned memory.
    """
    rows = table.numpy()[: len(runs)]
    np.add(runs, (source.data_ptr(), target.data_ptr(), 0), out=rows)
    longest = int(runs[:, 2].max()) // 8
    words = min(_WORDS, max(_LEAST_WORDS, triton.next_power_of_2(longest)))
    rows_at_once = _WORDS // words
    # The least common multiple of two of what they all are multiples of: 16 bytes is the most that a thread loads.
    is_aligned = int(np.bitwise_or.reduce(rows, axis=None)) % 16 == 0
    programs = min(_PROGRAMS if target.is_cuda else _PROGRAMS_TO_HOST, triton.cdiv(len(runs), rows_at_once))
    _copy_rows[(programs,)](
        table, len(runs), ROWS=rows_at_once, WORDS=words, ALIGNMENT=16 if is_aligned else 8, num_warps=4
    )


@triton.jit(do_not_specialize=["num_rows"])
def _copy_rows(table, num_rows, ROWS: tl.constexpr, WORDS: tl.constexpr, ALIGNMENT: tl.constexpr):
    """Each program copies rows (source address, target address, bytes) of the table, ROWS at a time.

    Where the next rows lie is asked for before these are copied: the table is in the host, as far away as they are.
    """
    lanes = tl.arange(0, WORDS)[None, :]
    step = ROWS * tl.num_programs(0)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    source, target, nbytes = _row_of(table, row, num_rows)
    for _ in range(tl.program_id(0) * ROWS, num_rows, step):
        row += step
        next_source, next_target, next_nbytes = _row_of(table, row, num_rows)
        here = tl.multiple_of(source.to(tl.pointer_type(tl.int64)), ALIGNMENT)[:, None]
        there = tl.multiple_of(target.to(tl.pointer_type(tl.int64)), ALIGNMENT)[:, None]
        num_words = tl.multiple_of((nbytes // 8).to(tl.int32), ALIGNMENT // 8)[:, None]
        for start in range(0, tl.max(num_words), WORDS):
            inside = start + lanes < num_words
            words = tl.load(here + start + lanes, mask=inside)
            tl.store(there + start + lanes, words, mask=inside)
        source, target, nbytes = next_source, next_target, next_nbytes


@triton.jit
def _row_of(table, row, num_rows):
    inside = row < num_rows
    source = tl.load(table + 3 * row, mask=inside, other=0)
    target = tl.load(table + 3 * row + 1, mask=inside, other=0)
    return source, target, tl.load(table + 3 * row + 2, mask=inside, other=0)
