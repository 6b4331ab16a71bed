"""How fast the drive's exact attention is, beside torch's over the same arrays in memory."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from tiers.csd.engines.dense import DenseEngine
from tiers.csd.memory_pages import MemoryPages
from tiers.csd.pages import KVShape

Row = dict[str, Any]


def attend_rows(num_tokens: int = 8192, rounds: int = 15, seed: int = 0) -> list[Row]:
    """One row for each precision of the pages: milliseconds of one layer of 9 heads, 3 of KV, 64 channels.

    Ours and the peer take turns; the rows give medians. The time to read the pages from a drive is not part of either.
    """
    return [_row(num_tokens, rounds, seed, dtype) for dtype in (np.float16, np.float32)]


def _row(num_tokens: int, rounds: int, seed: int, dtype: DTypeLike) -> Row:
    draw = np.random.default_rng(seed)
    shape = KVShape(3, 3, 64, dtype)
    keys, values = (draw.standard_normal((3, num_tokens, 64), np.float32).astype(dtype) for _ in range(2))
    query = draw.standard_normal((9, 64), np.float32)
    pages = MemoryPages(shape)
    pages.append(keys, values)
    engine = DenseEngine()
    q = torch.from_numpy(query.astype(dtype))[None, :, None]
    k, v = (torch.from_numpy(part)[None] for part in (keys, values))

    def peer() -> None:
        torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    ours_ms, peer_ms = _medians([lambda: engine.attend(query, pages), peer], rounds)
    return {
        "name": f"dense attend, {num_tokens} tokens, {np.dtype(dtype)} pages",
        "unit": "ms",
        "ours": ours_ms,
        "peer": peer_ms,
        "peer_name": f"torch {torch.__version__}, scaled_dot_product_attention",
        "ratio_to_peer": peer_ms / ours_ms,
    }


def _medians(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Milliseconds of each, after a first call that is not counted."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if turn:
                times[index].append(time.perf_counter() - start)
    return [1e3 * statistics.median(of_call) for of_call in times]
