"""Measures up to how many tokens the kernels for few of them are the fastest on this processor."""

import time

import torch

from offload.experts.codecs.affine import AffineCodec
from offload.experts.codecs.base import Matrix
from offload.experts.codecs.int8 import Int8Codec
from offload.experts.codecs.kernels import Kernels
from offload.experts.codecs.stored import StoredMatrix

_LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_OUTPUTS, _INPUTS = 1408, 1024
"""Of a matrix of an expert of practical size."""
_ALWAYS, _NEVER = Kernels(1, _LADDER[-1], _LADDER[-1]), Kernels(0, 0, 0)


def measure_kernels(seconds: float = 0.02) -> Kernels:
    """Tries both ways with more and more tokens, each for so many seconds, until widening wins: a second in all."""
    with torch.inference_mode():
        weight = torch.linspace(-1.0, 1.0, _OUTPUTS * _INPUTS).view(_OUTPUTS, _INPUTS)
        stored = weight.to(torch.bfloat16)
        found = {
            "bf16": _most(StoredMatrix(stored, False, _ALWAYS), StoredMatrix(stored, False, _NEVER), (1,), seconds)
        }
        for name, codec in (("int8", Int8Codec()), ("int4", AffineCodec(4))):
            parts = codec.encode(weight)
            found[name] = _most(codec.matrix(parts, _ALWAYS), codec.matrix(parts, _NEVER), _LADDER, seconds)
    return Kernels(**found)


def _most(few: Matrix, many: Matrix, ladder: tuple[int, ...], seconds: float) -> int:
    """The last count of tokens of the ladder for which ``few`` is as fast as ``many``."""
    best = 0
    for count in ladder:
        tokens = torch.ones(count, _INPUTS, dtype=torch.bfloat16)
        if _shortest_s(few, tokens, seconds) > _shortest_s(many, tokens, seconds):
            break
        best = count
    return best


def _shortest_s(matrix: Matrix, tokens: torch.Tensor, seconds: float) -> float:
    """The longer times have something else in them."""
    matrix.multiply(tokens)
    shortest, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        matrix.multiply(tokens)
        shortest = min(shortest, time.perf_counter() - start)
    return shortest
