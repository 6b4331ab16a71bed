"""The newest tokens of a layer in the host's memory: what drives get when there are enough of them to fill pages."""

import math

import torch
from torch import Tensor

from offload.attention.partial import PartialAttention, attend_by_definition
from offload.kv.new_tokens import NewTokens


def newest_nbytes(capacity: int, keys: Tensor, values: Tensor, inputs: Tensor | None = None) -> int:
    """What NewestTokens made of these take."""
    parts = [(keys, keys.dtype), (values, values.dtype)]
    if inputs is not None:
        parts.append((inputs, keys.dtype))
    return sum(capacity * math.prod(part.shape[:-2]) * part.shape[-1] * dtype.itemsize for part, dtype in parts)


class NewestTokens:
    """Up to ``capacity`` tokens of every row of a layer, in the model's type."""

    def __init__(self, capacity: int, keys: Tensor, values: Tensor, inputs: Tensor | None = None) -> None:
        """For rows like those of ``keys`` and ``values`` [batch, kv_heads, tokens, head_dim], and ``inputs``; empty.

        ``inputs`` [batch, tokens, width], where tokens have some.
        """
        batch, heads, _, key_dim = keys.shape
        shape = (batch, heads, capacity)
        # By head, since each attends by itself. What is no token yet has weight 0, and must not be NaN.
        self._keys = torch.zeros(*shape, key_dim, dtype=keys.dtype)
        self._values = torch.zeros(*shape, values.shape[-1], dtype=values.dtype)
        width = None if inputs is None else inputs.shape[-1]
        self._inputs = None if width is None else torch.zeros(batch, capacity, width, dtype=keys.dtype)
        self._counts = [0] * batch
        self.capacity = capacity

    @property
    def nbytes(self) -> int:
        inputs_nbytes = 0 if self._inputs is None else self._inputs.nbytes
        return self._keys.nbytes + self._values.nbytes + inputs_nbytes

    def num_tokens(self, row: int) -> int:
        """Of a row."""
        return self._counts[row]

    def read(self, row: int) -> NewTokens:
        """Those of a row; good until it changes."""
        held = slice(self._counts[row])
        inputs = None if self._inputs is None else self._inputs[row, held]
        return NewTokens(self._keys[row, :, held].transpose(0, 1), self._values[row, :, held].transpose(0, 1), inputs)

    def append(self, row: int, tokens: NewTokens) -> None:
        """As many tokens as there is room for in the row."""
        start = self._counts[row]
        end = start + len(tokens)
        assert end <= self.capacity, "the row is full"
        self._keys[row, :, start:end] = tokens.keys.transpose(0, 1)
        self._values[row, :, start:end] = tokens.values.transpose(0, 1)
        if self._inputs is not None and tokens.inputs is not None:
            self._inputs[row, start:end] = tokens.inputs
        self._counts[row] = end

    def clear(self, row: int) -> None:
        """Its tokens are elsewhere now."""
        self._counts[row] = 0

    def attend(self, query: Tensor, scale: float) -> PartialAttention:
        """query [batch, heads, head_dim] -> output like query and logsumexp [batch, heads], in float32."""
        batch, heads, dim = query.shape
        most = max(self._counts)
        grouped = query.reshape(batch, self._keys.shape[1], -1, dim)
        counts = torch.tensor(self._counts).reshape(-1, 1, 1, 1)
        mask = None if min(self._counts) == most else torch.arange(most) < counts
        keys, values = self._keys[:, :, :most], self._values[:, :, :most]
        output, logsumexp = attend_by_definition(grouped.float(), keys, values, scale, is_causal=False, mask=mask)
        return PartialAttention(output.reshape(batch, heads, -1), logsumexp.reshape(batch, heads))
