"""float16 pages as float32 rows. numpy widens one number at a time; the processor has an instruction for sixteen."""

import numpy as np

from tiers.csd.engines.compiled import compiled
from tiers.csd.pages import Floats, Halves


def widen(rows: Halves, out: Floats) -> Floats:
    """``rows`` [..., dim] as float32 [n, dim]: themselves where they are that already, else at the start of ``out``.

    ``out`` is scratch [at least n, dim]; one that stays in the processor's cache makes this nearly free. Compiled, ten
    times numpy's speed [8,192 tokens of 3 heads: 0.25 ms instead of 2.7].
    """
    rows = rows.reshape(-1, rows.shape[-1])
    if rows.dtype == np.float32:
        return rows
    found = out[: rows.shape[0]]
    kernels = compiled()
    if kernels is None or not rows.flags.c_contiguous:
        np.copyto(found, rows)
    else:
        kernels.widen_bits(rows.reshape(-1).view(np.uint16), found.reshape(-1))
    return found
