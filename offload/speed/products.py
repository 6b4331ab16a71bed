"""How fast a processor multiplies one token by matrices of several sizes, and attends to earlier ones."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import psutil
import torch
from torch import Tensor
from torch.nn import functional

from offload.attention.partial import PartialAttention, attend_all, attend_causal, merge
from offload.linear import linear
from offload.speed.layer_products import LayerProducts
from simulators.runtime_profile import Table
from tiers.copier import as_tensor
from tiers.memory_tier import MemoryTier
from tiers.tier import ALIGNMENT

_SIZES = tuple(kib * 1024 for kib in (64, 256, 1024, 4096, 16384))
POOL_NBYTES = 2**30
"""Of memory that matrices are taken out of, one after the other: more than the caches of a large processor hold, as the
weights of a model are. Less where a quarter of what is free is less."""
_PIECES = 8
_LAYER = (2**20,) * 4 + (3 * 2**20,) * 3
"""Bytes of the matrices of a small layer."""
_PARTS = 4
_LEAST = 3
"""Times that anything is done."""
_MOST_INPUTS = 960
"""Long rows are read faster than those of small models, and powers of two faster than most of their hidden sizes."""
_OFFSET = 24
"""Bytes. A checkpoint's tensors begin where its header happens to end, and the kernels for one token read matrices that
begin in the middle of a cache line a sixth slower."""


def product_tables(seconds: float, pool_nbytes: int = POOL_NBYTES) -> tuple[dict[str, Table], dict[str, Table]]:
    """By dtype, bytes per second by the matrix's size: as a module multiplies, and as experts and the head do.

    Each number is measured for ``seconds`` at least, and until all of ``pool_nbytes`` has been read.
    """
    by_module: dict[str, Table] = {}
    by_vector: dict[str, Table] = {}
    nbytes = _within_reason(pool_nbytes)
    memory = MemoryTier("device", 1, nbytes + ALIGNMENT)  # of the kind that weights lie in
    whole = as_tensor(memory.buffer).fill_(0)[_OFFSET:][:nbytes]
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            pool = whole.view(dtype)
            name = str(dtype).removeprefix("torch.")
            by_module[name] = _table(pool, functional.linear, seconds)
            is_other = dtype is torch.bfloat16
            by_vector[name] = _table(pool, linear, seconds) if is_other else by_module[name]
    return by_module, by_vector


def attention_speed(seconds: float, pool_nbytes: int = POOL_NBYTES) -> tuple[float, float]:
    """Bytes of keys and values that one thread attends to in a second, and the seconds that each part takes besides.

    A part is a run of blocks: one call of the kernel, and its share of a merge.
    """
    heads, dim, short, long = 4, 64, 64, 2048
    memory = MemoryTier("device", 1, _within_reason(pool_nbytes))
    rows = as_tensor(memory.buffer).fill_(0).view(torch.float32).view(-1, 2 * heads * dim)
    layers = itertools.cycle(rows.split(long))
    query = torch.full((3 * heads, 1, dim), 0.01)

    def attend(tokens: Tensor) -> PartialAttention:
        keys, values = (half.unflatten(1, (heads, dim)) for half in tokens.chunk(2, dim=1))
        return attend_all(query, keys, values, 0.1)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            few_s = median_s(lambda: attend(rows[:short]), 2 * seconds)
            many_s = median_s(lambda: attend(next(layers)), 8 * seconds)
    finally:
        torch.set_num_threads(threads)
    rate = (long - short) * rows[0].nbytes / max(many_s - few_s, 1e-9)
    # With all threads, since it is their hand-overs that a short part consists of, and after products as in a model:
    # these leave little of what a part needs in the caches.
    products = LayerProducts(_LAYER, torch.float32)

    def after_products(parts: int) -> None:
        products()
        merge([attend(rows[:short]) for _ in range(parts)])

    with torch.inference_mode():
        one_s, many_s = _in_turn(partial(after_products, 1), partial(after_products, 1 + _PARTS), 4 * seconds)
    return rate, max(0.0, (many_s - one_s) / _PARTS - short * rows[0].nbytes / rate)


def prompt_attention_flops_per_s(seconds: float, tokens: int = 1024) -> float:
    """Arithmetic of a prompt's tokens attending to each other, each to those before it."""
    heads, dim = 8, 64
    query = torch.full((heads, tokens, dim), 0.01)
    keys = torch.full((tokens, heads // 2, dim), 0.01)
    with torch.inference_mode():
        took_s = median_s(lambda: attend_causal(query, keys, keys, 0.1), seconds)
    return heads * 4.0 * dim * tokens * tokens / 2 / took_s


def slice_s(seconds: float) -> float:
    """What a slice of the head takes besides its product, as ``TieredHead`` puts logits together."""
    rows, hidden = torch.zeros(64, 64), torch.zeros(1, 1, 64)
    logits = hidden.new_empty(1, 1, 64)
    with torch.inference_mode():
        alone_s = median_s(lambda: linear(hidden, rows), seconds)
        return max(0.0, median_s(lambda: logits[..., 0:64].copy_(linear(hidden, rows)), seconds) - alone_s)


def _table(pool: Tensor, multiply: Callable[[Tensor, Tensor], Tensor], seconds: float) -> Table:
    rows = []
    for nbytes in _SIZES:
        inputs = min(_MOST_INPUTS, 2 ** (((nbytes // pool.itemsize).bit_length() - 1) // 2))
        count = nbytes // pool.itemsize // inputs * inputs
        matrices = [piece.view(-1, inputs) for piece in pool.split(count) if piece.numel() == count]
        vector = torch.full((1, inputs), 0.01, dtype=pool.dtype)
        # In pieces that together are read once: the median forgives the moments in which others wanted the cores.
        pieces = itertools.cycle(_cut(matrices, max(1, len(matrices) // _PIECES)))
        times: list[float] = []
        deadline = time.perf_counter() + seconds
        while len(times) < 2 * _PIECES or time.perf_counter() < deadline:
            piece = next(pieces)
            start = time.perf_counter()
            for matrix in piece:
                multiply(vector, matrix)
            times.append((time.perf_counter() - start) / len(piece))
        rows.append((nbytes, count * pool.itemsize / statistics.median(times)))
    return tuple(rows)


def _within_reason(nbytes: int) -> int:
    """Whole pieces of 16 MiB, the largest matrix, of at most a quarter of the memory that is free."""
    quarter = int(psutil.virtual_memory().available) // 4
    return max(1, min(nbytes, quarter) // _SIZES[-1]) * _SIZES[-1]


def _cut(matrices: Sequence[Tensor], length: int) -> list[Sequence[Tensor]]:
    return [matrices[first : first + length] for first in range(0, len(matrices), length)]


def _in_turn(one: Callable[[], object], other: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Median times of both, done in turn."""
    times: list[tuple[float, float]] = []
    deadline = time.perf_counter() + seconds
    while len(times) < _LEAST or time.perf_counter() < deadline:
        start = time.perf_counter()
        one()
        middle = time.perf_counter()
        other()
        times.append((middle - start, time.perf_counter() - middle))
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    return first, second


def median_s(work: Callable[[], object], seconds: float, *, least: int = _LEAST) -> float:
    """Median time of ``work``, after one call that warms up caches and kernels."""
    work()
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < deadline:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    times.sort()
    return times[len(times) // 2]
