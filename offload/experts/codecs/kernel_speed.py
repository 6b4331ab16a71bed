"""Measures up to how many tokens the kernels for few of them are the fastest on this processor."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from offload.dtypes import torch_dtype
from offload.experts.codecs.affine import AffineCodec
from offload.experts.codecs.base import Matrix
from offload.experts.codecs.int8 import Int8Codec
from offload.experts.codecs.kernels import Kernels
from offload.experts.codecs.stored import StoredMatrix

_LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_OUTPUTS, _INPUTS = 1408, 1024
"""Of a matrix of an expert of practical size."""
_ALWAYS, _NEVER = Kernels(1, _LADDER[-1], _LADDER[-1]), Kernels(0, 0, 0)


def measure_kernels(seconds: float = 0.04) -> Kernels:
    """Tries both ways with more and more tokens, each number of them for so many seconds: a second in all.

    By one thread: several wait for each other wherever something else runs too, which one way of multiplying suffers
    from more than the other.
    """
    with torch.inference_mode(), _one_thread():
        # What the weights are makes no difference to the time.
        stored = torch.zeros(_OUTPUTS, _INPUTS, dtype=torch.bfloat16)
        found = {
            "bf16": _most(StoredMatrix(stored, False, _ALWAYS), StoredMatrix(stored, False, _NEVER), (1,), seconds)
        }
        for name, codec in (("int8", Int8Codec()), ("int4", AffineCodec(4))):
            parts = [torch.zeros(part.shape, dtype=torch_dtype(part.dtype)) for part in codec.parts(_OUTPUTS, _INPUTS)]
            found[name] = _most(codec.matrix(parts, _ALWAYS), codec.matrix(parts, _NEVER), _LADDER, seconds)
    return Kernels(**found)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _most(few: Matrix, many: Matrix, ladder: tuple[int, ...], seconds: float) -> int:
    """The count of tokens up to which to use ``few``: that which wastes least, whatever went wrong with one of them."""
    times = [_shortest_s((few, many), torch.ones(count, _INPUTS, dtype=torch.bfloat16), seconds) for count in ladder]
    gains = [math.log(by_many / by_few) for by_few, by_many in times]
    best = max(range(len(ladder) + 1), key=lambda rungs: sum(gains[:rungs]))
    return ladder[best - 1] if best else 0


def _shortest_s(matrices: tuple[Matrix, Matrix], tokens: torch.Tensor, seconds: float) -> list[float]:
    """Of each, in turns: the longer times have something else in them."""
    shortest = [math.inf, math.inf]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or math.inf in shortest:
        for which, matrix in enumerate(matrices):
            start = time.perf_counter()
            matrix.multiply(tokens)
            shortest[which] = min(shortest[which], time.perf_counter() - start)
    return shortest
