"""Loops over pages, compiled by numba, which is needed to import this; see ``compiled``.

Half precision comes as its bits: numba has no such type on a processor, and LLVM has the instruction that widens it.
The types are named, so that the import compiles everything and keeps it on the disk: a later call cannot fail for that.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_REORDERED = {"reassoc", "contract"}
"""Sums in any order, so that they are vectors; infinities stay what they are."""

_BITS = types.Array(types.uint16, 1, "C", readonly=True)
_HALVES = types.Array(types.uint16, 2, "C", readonly=True)
_ROWS = types.Array(types.float32, 2, "C", readonly=True)
"""Pages are not written to; arrays that could be are taken too."""
_FOUND = types.Array(types.float32, 2, "C")
_PART = types.Array(types.float32, 2, "A")
"""Some columns of a larger array."""
_PART_READ = types.Array(types.float32, 2, "A", readonly=True)


@intrinsic
def _as_float(_typing: Any, _bits: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@njit(types.void(_BITS, types.float32[::1]), cache=True, nogil=True)
def widen_bits(bits, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """``bits`` [n] -> ``out`` [n]."""
    for index in range(bits.size):
        out[index] = _as_float(bits[index])  # type: ignore[call-arg]


@njit(types.void(_ROWS, _ROWS, _PART), cache=True, nogil=True, fastmath=_REORDERED)
def scores_of(rows, queries, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """``rows`` [n, dim] times ``queries`` [heads, dim] -> ``out`` [heads, n], all float32."""
    for row in range(rows.shape[0]):
        for head in range(queries.shape[0]):
            total = np.float32(0)
            for channel in range(rows.shape[1]):
                total += rows[row, channel] * queries[head, channel]
            out[head, row] = total


@njit(types.void(_HALVES, _ROWS, _PART), cache=True, nogil=True, fastmath=_REORDERED)
def scores_of_bits(rows, queries, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """As ``scores_of``, of the bits of halves."""
    wide = np.empty(rows.shape[1], np.float32)
    for row in range(rows.shape[0]):
        for channel in range(rows.shape[1]):
            wide[channel] = _as_float(rows[row, channel])  # type: ignore[call-arg]
        for head in range(queries.shape[0]):
            total = np.float32(0)
            for channel in range(rows.shape[1]):
                total += wide[channel] * queries[head, channel]
            out[head, row] = total


@njit(types.void(_HALVES, _PART_READ, _FOUND), cache=True, nogil=True, fastmath=_REORDERED)
def add_bits(rows, shares, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """``out`` [heads, dim] += ``shares`` [heads, n] times the halves whose bits are ``rows`` [n, dim], n % 4 == 0.

    Four rows at a time: what is added to is loaded and stored a fourth as often.
    """
    wide = np.empty((4, rows.shape[1]), np.float32)
    for first in range(0, rows.shape[0], 4):
        for row in range(4):
            for channel in range(rows.shape[1]):
                wide[row, channel] = _as_float(rows[first + row, channel])  # type: ignore[call-arg]
        for head in range(out.shape[0]):
            a, b, c, d = shares[head, first], shares[head, first + 1], shares[head, first + 2], shares[head, first + 3]
            for channel in range(rows.shape[1]):
                out[head, channel] += (
                    a * wide[0, channel] + b * wide[1, channel] + c * wide[2, channel] + d * wide[3, channel]
                )
