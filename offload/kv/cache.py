"""A transformers Cache whose layers are block tables."""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from offload.kv.store import KVStore
from offload.kv.table import BlockTable
from prefetch.prefetcher import Prefetcher
from tiers.block import BlockKey
from tiers.errors import InvalidOptionError, ModelError


class TieredLayer(CacheLayerMixin):
    """One layer: a table of blocks for each row of the batch.

    ``update`` returns the new keys and values only, marked with this layer; the attention function follows the mark to
    the blocks. Whoever ignores the mark would see too few tokens, hence the check that somebody read it.
    """

    is_croppable = True
    supports_early_init = False

    def __init__(
        self,
        store: KVStore,
        index: int,
        window: int | None,
        before: "TieredLayer | None",
        prefetcher: Prefetcher | None,
    ) -> None:
        super().__init__()
        self.store = store
        self.index = index
        self.window = window
        self.is_sliding = window is not None
        self.record_past = False
        """Keep what slid out of the window until the next ``crop``, which may want it back."""
        self.rows: list[BlockTable] = []
        """Always the same list: it outlives this layer if the cache is dropped with blocks in it."""
        self.num_tokens = 0
        self.is_read = True
        """Whether the attention function has followed the latest mark."""
        self.prefetcher = prefetcher
        self._before = before

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
        slots, total = self.store.num_slots, self.store.num_layers * batch
        places = [self.index * batch + row for row in range(batch)]
        if self.store.is_still:
            # A stretch of the arena of its own for each row: as long as all of them fit, each stays one run of slots.
            self.rows[:] = [BlockTable(self.store, self.index, home=place * slots // total) for place in places]
        else:
            self.rows[:] = [BlockTable(self.store, self.index, open_home=max(0, slots - 1 - p)) for p in places]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store new tokens, [batch, heads, tokens, dim] each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, new = self.num_tokens, key_states.shape[2]
        self._check_in_step(key_states.shape[0], new)
        self.is_read = False
        for row, table in enumerate(self.rows):
            table.append(key_states[row].transpose(0, 1), value_states[row].transpose(0, 1))
        self.num_tokens = start + new
        if not self.record_past:
            # The first of the new queries still sees window - 1 tokens before itself.
            self._drop_passed(start)
        # The mark; tensors take attributes.
        key_states.kv_layer = value_states.kv_layer = self  # type: ignore[attr-defined]
        return key_states, value_states

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
        self.rows.clear()
        self.num_tokens = 0
        self.is_initialized = False
        self.is_read = True

    def activate_past_recording(self) -> None:
        """From now on ``crop`` follows every ``update``: a window lets go of tokens only then."""
        self.record_past = True

    def kept_by(self, tokens_to_remove: int) -> int:
        """How many tokens a call of ``crop`` leaves. Raises InvalidOptionError if the window has dropped what they see.

        A negative number is how many tokens go, a positive one how many stay (transformers had both).
        """
        kept = tokens_to_remove if tokens_to_remove > 0 else max(0, self.num_tokens + tokens_to_remove)
        if self.window is None or kept >= self.num_tokens:
            return min(kept, self.num_tokens)
        oldest = max(0, kept - self.window + 1)
        if any(table.num_dropped * self.store.layout.block_tokens > oldest for table in self.rows):
            raise InvalidOptionError(
                f"past_key_values: cannot roll back from {self.num_tokens} to {kept} tokens, since the sliding window "
                "has dropped some of them; call activate_past_recording() before they are added"
            )
        return kept

    def crop(self, tokens_to_remove: int) -> None:
        """Roll back, see ``kept_by``."""
        kept = self.kept_by(tokens_to_remove)
        for table in self.rows:
            table.crop(kept)
        self.num_tokens = kept
        self._drop_passed(kept)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._select_rows(beam_idx.tolist())

    def batch_select_indices(self, indices: Tensor) -> None:
        if indices.dtype == torch.bool:
            indices = indices.nonzero().flatten()
        self._select_rows(indices.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._select_rows([row for row in range(len(self.rows)) for _ in range(repeats)])

    def share_with(self, other: "TieredLayer") -> None:
        """Give the tokens to an empty layer of another cache too; full blocks are shared."""
        for table in self.rows:
            other.rows.append(table.fork())
        other.num_tokens, other.is_initialized = self.num_tokens, self.is_initialized
        other.record_past = self.record_past

    def offload(self) -> None:
        """Nothing to do: the memory manager moves blocks by itself."""

    def prefetch(self) -> None:
        """Nothing to do: the memory manager moves blocks by itself."""

    def _select_rows(self, chosen: Sequence[int]) -> None:
        if not self.rows:
            return
        old, rows, forks = list(self.rows), list[BlockTable](), list[BlockTable]()
        try:
            for position, row in enumerate(chosen):
                if row in chosen[:position]:
                    forks.append(old[row].fork())
                    rows.append(forks[-1])
                else:
                    rows.append(old[row])
        except BaseException:
            for table in forks:
                table.clear()
            raise
        self.rows[:] = rows
        for row, table in enumerate(old):
            if row not in chosen:
                table.clear()

    def _drop_passed(self, position: int) -> None:
        """Let go of what a query at ``position`` does not see any more."""
        if self.window is not None:
            for table in self.rows:
                table.drop_before(position - self.window + 1)

    def _check_in_step(self, batch: int, new: int) -> None:
        """Raises InvalidOptionError, or ModelError where the layer before has not been read."""
        if batch != len(self.rows):
            raise InvalidOptionError(
                f"past_key_values: holds {len(self.rows)} sequences, but {batch} are given; pass a new cache"
            )
        before = self._before
        if before is not None and not before.is_read:
            raise ModelError(
                f"layer {before.index} computes its attention outside the attention interface of transformers; "
                "a model that does so cannot be offloaded"
            )
        expected = before.num_tokens - new if before is not None else self.num_tokens
        if expected != self.num_tokens or any(table.num_tokens != expected for table in self.rows):
            whole = min(self.num_tokens, *(table.num_tokens for table in self.rows))
            cure = f"call crop({whole}) or close()" if whole else "call close()"
            raise InvalidOptionError(f"past_key_values: a forward pass was interrupted; {cure} before the next one")


class TieredCache(Cache):
    """The KV cache of one ``generate`` call or one conversation; give its blocks back with ``close`` (or ``with``).

    Pass it as ``past_key_values``. Supports batches, left padding, beam search, ``crop``, sliding-window layers and
    ``copy.deepcopy``, which shares full blocks: the way to start many conversations from one prompt. Blocks are made by
    any number of caches over one KVStore, within one budget.
    """

    def __init__(self, store: KVStore, config: PreTrainedConfig) -> None:
        self.store = store
        self._config = config
        store.reclaim()
        itself = weakref.ref(self)  # no cycles: blocks come back as soon as nobody has the cache any more
        self.prefetcher = store.make_prefetcher(lambda index: _full_blocks(itself(), index))
        self._tiered: list[TieredLayer] = []
        for index, window in enumerate(layer_windows(config)):
            before = self._tiered[-1] if self._tiered else None
            self._tiered.append(TieredLayer(store, index, window, before, self.prefetcher))
        super().__init__(layers=list(self._tiered))
        weakref.finalize(self, store.abandon, [layer.rows for layer in self._tiered]).atexit = False

    def full_blocks(self, index: int) -> list[BlockKey]:
        """The blocks of a layer that may be on a lower tier."""
        return self._tiered[index].full_blocks()

    def crop(self, tokens_to_remove: int) -> None:
        """Roll all layers back or, where that raises InvalidOptionError, none; see TieredLayer."""
        for layer in self._tiered:
            layer.kept_by(tokens_to_remove)
        for layer in self._tiered:
            layer.crop(tokens_to_remove)

    def close(self) -> None:
        """Give every block back. The cache is empty and usable afterwards."""
        if self.prefetcher:
            self.prefetcher.stop()
        self.reset()

    def __deepcopy__(self, memo: dict[int, object]) -> "TieredCache":
        other = TieredCache(self.store, self._config)
        try:
            for layer, copy in zip(self._tiered, other._tiered, strict=True):
                layer.share_with(copy)
        except BaseException:
            other.close()
            raise
        return other

    def __enter__(self) -> "TieredCache":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _full_blocks(cache: TieredCache | None, index: int) -> list[BlockKey]:
    return [] if cache is None else cache.full_blocks(index)


def layer_windows(config: PreTrainedConfig) -> list[int | None]:
    """The sliding window of every layer, None for full attention. Raises ModelError for other kinds of layers."""
    num_layers = getattr(config, "num_hidden_layers", None)
    if num_layers is None:
        raise ModelError("its configuration has no num_hidden_layers, and so no single stack of layers")
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return [window if getattr(config, "use_sliding_window", True) else None] * num_layers
    others = sorted({repr(kind) for kind in kinds if kind not in ("full_attention", "sliding_attention")})
    if others:
        raise ModelError(f"layers of type {', '.join(others)} are not supported; only full and sliding attention are")
    return [window if kind == "sliding_attention" else None for kind in kinds]
