"""The arithmetic of the networks that foresee a token's path through the experts, in numpy: a decode step takes a
fraction of a millisecond, and no other library is needed to decide what to fetch.

``offload.predictor_training.network`` has the same networks for training and says where they come from.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class PathBlock:
    """One causal transformer block. Exactly one of ``bias`` and ``gate`` is there.

    With ``bias`` [window, heads], which is added to the score of a token so many back, it is T5's: a ReLU network and
    no positions. With ``gate`` it is Llama's: SwiGLU and rotary positions.
    """

    norm_before: Matrix
    query: Matrix
    key: Matrix
    value: Matrix
    output: Matrix
    norm_between: Matrix
    up: Matrix
    down: Matrix
    gate: Matrix | None = None
    bias: Matrix | None = None

    def run(self, x: Matrix, past: "Past", heads: int) -> Matrix:
        """x [sequences, tokens, hidden] -> the same shape; the tokens are added to ``past``."""
        x = x + self._attend(_norm(x, self.norm_before), past, heads)
        y = _norm(x, self.norm_between)
        inner = y @ self.up
        inner = np.maximum(inner, 0) if self.gate is None else _silu(y @ self.gate) * inner
        return x + inner @ self.down

    def _attend(self, x: Matrix, past: "Past", heads: int) -> Matrix:
        sequences, tokens, hidden = x.shape
        shape = (sequences, tokens, heads, hidden // heads)
        query, key, value = (
            (x @ matrix).reshape(shape).transpose(0, 2, 1, 3) for matrix in (self.query, self.key, self.value)
        )
        if self.bias is None:
            query, key = _rotate(query, past.num_tokens), _rotate(key, past.num_tokens)
        keys, values = past.add(key, value)
        distance = np.arange(keys.shape[2] - tokens, keys.shape[2])[:, None] - np.arange(keys.shape[2])
        is_seen = (distance >= 0) & (distance < past.window)
        scores = query @ keys.transpose(0, 1, 3, 2) * shape[-1] ** -0.5
        if self.bias is not None:
            scores = scores + self.bias[distance.clip(0, past.window - 1)].transpose(2, 0, 1)
        seen: Matrix = softmax(np.where(is_seen, scores, -np.inf)) @ values
        attended: Matrix = seen.transpose(0, 2, 1, 3).reshape(x.shape) @ self.output
        return attended


class Past:
    """Keys and values [sequences, heads, tokens, width] of the latest tokens that one block has seen."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.num_tokens = 0
        """Of all that were seen."""
        self._keys: Matrix | None = None
        self._values: Matrix | None = None

    def add(self, keys: Matrix, values: Matrix) -> tuple[Matrix, Matrix]:
        """What the new tokens see: those before them, and themselves. Keeps what the next one may still see."""
        self.num_tokens += keys.shape[2]
        if self._keys is not None and self._values is not None:
            keys, values = np.concatenate([self._keys, keys], 2), np.concatenate([self._values, values], 2)
        kept = max(0, keys.shape[2] - self.window + 1)
        self._keys, self._values = keys[:, :, kept:], values[:, :, kept:]
        return keys, values


@dataclass(frozen=True, slots=True)
class PathNetwork:
    """``embedding`` [tokens, hidden], ``heads`` [hidden, outputs] and ``offsets`` [outputs]."""

    embedding: NDArray[np.float16]
    blocks: tuple[PathBlock, ...]
    norm: Matrix
    heads: Matrix
    offsets: Matrix
    attention_heads: int
    window: int

    def begin(self) -> tuple[Past, ...]:
        """An empty context."""
        return tuple(Past(self.window) for _ in self.blocks)

    def run(self, places: NDArray[np.int64], context: tuple[Past, ...]) -> Matrix:
        """places [sequences, tokens], rows of the embedding -> [sequences, tokens, outputs].

        The tokens are added to ``context``. As many as the window holds are taken at a time: the memory that a long
        prompt needs does not grow with the square of its length.
        """
        parts = []
        for start in range(0, places.shape[1], self.window):
            x = self.embedding[places[:, start : start + self.window]].astype(np.float32)
            for block, past in zip(self.blocks, context, strict=True):
                x = block.run(x, past, self.attention_heads)
            parts.append(_norm(x, self.norm) @ self.heads + self.offsets)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _norm(x: Matrix, weight: Matrix) -> Matrix:
    normed: Matrix = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPSILON) * weight
    return normed


def _silu(x: Matrix) -> Matrix:
    return x * sigmoid(x)


def sigmoid(x: Matrix) -> Matrix:
    """1 / (1 + exp(-x)), whatever the size of x."""
    probability: Matrix = 0.5 * (np.tanh(0.5 * x) + 1)
    return probability


def softmax(x: Matrix) -> Matrix:
    """Shares that sum to 1 along the last axis."""
    odds = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: Matrix = odds / odds.sum(axis=-1, keepdims=True)
    return shares


def _rotate(x: Matrix, start: int) -> Matrix:
    """Rotary positions of x [sequences, heads, tokens, width]; the first half of the width goes with the second."""
    half = x.shape[-1] // 2
    angles = np.arange(start, start + x.shape[2])[:, None] * 10000.0 ** -(np.arange(half) / half)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
