"""A transformers Cache whose layers are block tables."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from offload.kv.store import KVStore
from offload.kv.table import BlockTable
from prefetch.prefetcher import Prefetcher
from tiers.block import BlockKey
from tiers.errors import ModelError


class TieredLayer(CacheLayerMixin):
    """One layer: a table of blocks for each row of the batch.

    ``update`` returns the new keys and values only, marked with this layer; the attention function follows the mark to
    the blocks. Whoever ignores the mark would see too few tokens, hence the check in ``update`` that somebody read it.
    """

    is_croppable = True
    supports_early_init = False

    def __init__(self, store: KVStore, index: int, window: int | None, cache: "TieredCache") -> None:
        super().__init__()
        self.store = store
        self.index = index
        self.window = window
        self.is_sliding = window is not None
        self.rows: list[BlockTable] = []
        self.num_tokens = 0
        self._cache = cache
        self._is_read = True

    @property
    def prefetcher(self) -> Prefetcher | None:
        return self._cache.prefetcher

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, key_dim = key_states.shape
        layout = self.store.layout
        found = (heads, key_dim, value_states.shape[-1])
        if found != (layout.num_kv_heads, layout.key_dim, layout.value_dim):
            raise ModelError(
                f"layer {self.index} has KV heads of shape {found}, the plan was made for "
                f"{(layout.num_kv_heads, layout.key_dim, layout.value_dim)}; this architecture is not supported"
            )
        self.dtype, self.device = key_states.dtype, key_states.device
        # A stretch of the arena of its own for each row: as long as all of them fit, every row stays one run of slots.
        total = self.store.num_layers * batch
        homes = [(self.index * batch + row) * self.store.num_slots // total for row in range(batch)]
        self.rows = [BlockTable(self.store, self.index, home) for home in homes]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store new tokens, [batch, heads, tokens, dim] each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if not self._is_read:
            raise ModelError(
                f"layer {self.index} computes its attention outside the attention interface of transformers; "
                "a model that does so cannot be offloaded"
            )
        self._is_read = False
        start = self.num_tokens
        for row, table in enumerate(self.rows):
            table.append(key_states[row].transpose(0, 1), value_states[row].transpose(0, 1))
        self.num_tokens += key_states.shape[2]
        if self.window is not None:
            # The first of the new queries still sees window - 1 tokens before itself.
            for table in self.rows:
                table.drop_before(start - self.window + 1)
        key_states.kv_layer = self  # type: ignore[attr-defined]  # the mark; tensors take attributes
        return key_states, value_states

    def mark_read(self) -> None:
        """The attention function has followed the mark."""
        self._is_read = True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.num_tokens + query_length, 0

    def get_seq_length(self) -> int:
        return self.num_tokens

    def get_max_length(self) -> int:
        return -1

    def full_blocks(self) -> list[BlockKey]:
        """The blocks of all rows that may be on a lower tier, each once."""
        if len(self.rows) == 1:
            return list(self.rows[0].full_blocks())
        return list(dict.fromkeys(key for table in self.rows for key in table.full_blocks()))

    def reset(self) -> None:
        for table in self.rows:
            table.clear()
        self.rows = []
        self.num_tokens = 0
        self.is_initialized = False
        self._is_read = True

    def crop(self, tokens_to_remove: int) -> None:
        """Roll back: a negative number is how many tokens go, a positive one how many stay (transformers had both)."""
        kept = tokens_to_remove if tokens_to_remove > 0 else self.num_tokens + tokens_to_remove
        if not self.is_initialized or kept >= self.num_tokens:
            return
        for table in self.rows:
            table.crop(kept)
        self.num_tokens = kept

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._select_rows(beam_idx.tolist())

    def batch_select_indices(self, indices: Tensor) -> None:
        if indices.dtype == torch.bool:
            indices = indices.nonzero().flatten()
        self._select_rows(indices.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._select_rows([row for row in range(len(self.rows)) for _ in range(repeats)])

    def offload(self) -> None:
        """Nothing to do: the memory manager moves blocks by itself."""

    def prefetch(self) -> None:
        """Nothing to do: the memory manager moves blocks by itself."""

    def _select_rows(self, chosen: Sequence[int]) -> None:
        if not self.rows:
            return
        old, self.rows = self.rows, []
        taken: set[int] = set()
        for row in chosen:
            self.rows.append(old[row].fork() if row in taken else old[row])
            taken.add(row)
        for row, table in enumerate(old):
            if row not in taken:
                table.clear()


class TieredCache(Cache):
    """The KV cache of one ``generate`` call or one conversation; give its blocks back with ``close`` (or ``with``).

    Pass it as ``past_key_values``. Supports batches, left padding, beam search, ``crop`` and sliding-window layers.
    Blocks are made by any number of caches over one KVStore, within one budget.
    """

    def __init__(self, store: KVStore, config: PreTrainedConfig) -> None:
        self.store = store
        windows = layer_windows(config)
        self._tiered = [TieredLayer(store, i, window, self) for i, window in enumerate(windows)]
        super().__init__(layers=list(self._tiered))
        self.prefetcher = store.make_prefetcher(lambda layer: self._tiered[layer].full_blocks())

    def close(self) -> None:
        """Give every block back. The cache is empty and usable afterwards."""
        if self.prefetcher:
            self.prefetcher.stop()
        self.reset()

    def __enter__(self) -> "TieredCache":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def layer_windows(config: PreTrainedConfig) -> list[int | None]:
    """The sliding window of every layer, None for full attention. Raises ModelError for other kinds of layers."""
    num_layers = config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return [window if getattr(config, "use_sliding_window", True) else None] * num_layers
    for kind in set(kinds):
        if kind not in ("full_attention", "sliding_attention"):
            raise ModelError(f"layers of type '{kind}' are not supported; only full and sliding attention are")
    return [window if kind == "sliding_attention" else None for kind in kinds]
