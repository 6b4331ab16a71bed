"""Tokens on their way to where they are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class NewTokens:
    """``keys`` and ``values`` [tokens, kv_heads, head_dim]; ``inputs`` [tokens, width] what they can be made of again.

    ``inputs`` is None where nobody stores them.
    """

    keys: Tensor
    values: Tensor
    inputs: Tensor | None = None

    def __len__(self) -> int:
        return self.keys.shape[0]

    def __getitem__(self, which: slice | Tensor) -> "NewTokens":
        """Some of them."""
        return self._each(lambda part: part[which])

    def like(self, other: "NewTokens") -> "NewTokens":
        """In the type and memory of ``other``."""
        return self._each(lambda part: part.to(other.keys))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "NewTokens":
        inputs = None if self.inputs is None else change(self.inputs)
        return NewTokens(change(self.keys), change(self.values), inputs)


def joined(parts: Sequence[NewTokens]) -> NewTokens:
    """Tokens that follow each other."""
    inputs = [part.inputs for part in parts if part.inputs is not None]
    keys, values = torch.cat([part.keys for part in parts]), torch.cat([part.values for part in parts])
    return NewTokens(keys, values, torch.cat(inputs) if len(inputs) == len(parts) else None)
