"""How queries meet what the arena holds of each token: keys and values as they are, or latents."""

from typing import Protocol

from torch import Tensor

from offload.attention.partial import PartialAttention
from offload.kv.store import KVStore


class StoredTokens(Protocol):
    """The queries that fit what is stored, what to attend to, and what the answer means to the model."""

    def ask(self, query: Tensor) -> Tensor:
        """query [heads, queries, dim] -> [heads, queries, width of what is stored]."""
        ...

    def tokens(self, store: KVStore, run: slice) -> tuple[Tensor, Tensor]:
        """Keys [tokens, heads, width] of a run of the arena and values alike, without a copy."""
        ...

    def answer(self, part: PartialAttention) -> PartialAttention:
        """The output as the model wants it, [heads, queries, value_dim]."""
        ...


class KeysAndValues:
    """Stored as the model computes with them."""

    def ask(self, query: Tensor) -> Tensor:
        return query

    def tokens(self, store: KVStore, run: slice) -> tuple[Tensor, Tensor]:
        return store.keys[run], store.values[run]

    def answer(self, part: PartialAttention) -> PartialAttention:
        return part
