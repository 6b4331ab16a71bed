"""A layer of a cache whose tokens are blocks in tiers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from offload.kv.layer import MarkingLayer
from offload.kv.store import KVStore
from offload.kv.table import BlockTable
from prefetch.prefetcher import Prefetcher
from tiers.block import BlockKey
from tiers.errors import InvalidOptionError, ModelError


class TieredLayer(MarkingLayer):
    """A table of blocks for each row of the batch."""

    def __init__(
        self,
        store: KVStore,
        index: int,
        window: int | None,
        before: MarkingLayer | None,
        prefetcher: Prefetcher | None,
    ) -> None:
        super().__init__(index, window, before)
        self.store = store
        self.record_past = False
        """Keep what slid out of the window until the next ``crop``, which may want it back."""
        self.rows: list[BlockTable] = []
        """Always the same list: it outlives this layer if the cache is dropped with blocks in it."""
        self.prefetcher = prefetcher

    @property
    def stored_tokens(self) -> list[int]:
        return [table.num_tokens for table in self.rows]

    def after_attention(self) -> None:
        super().after_attention()
        if self.prefetcher is not None:
            self.prefetcher.advance(self.index)

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
        self.check_in_step(key_states.shape[0], new)
        for row, table in enumerate(self.rows):
            table.append(key_states[row].transpose(0, 1), value_states[row].transpose(0, 1))
        self.num_tokens = start + new
        if not self.record_past:
            # The first of the new queries still sees window - 1 tokens before itself.
            self._drop_passed(start)
        return self.mark(key_states, value_states)

    def make_room(self) -> None:
        """As ``update`` with one token in each row, whose keys and values somebody else writes. For no sliding window.

        Raises what ``update`` raises.
        """
        self.check_in_step(len(self.rows), 1)
        for table in self.rows:
            table.make_room()
        self.num_tokens += 1

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

    def _select_rows(self, chosen: Sequence[int]) -> None:
        """Rows of these numbers, in this order; one that is named twice is forked.

        Raises TierFullError where a fork does not fit. If all rows are chosen, they are then what they were. Else what
        the others held is gone: no row keeps a token, and passes are refused until ``reset`` or a ``crop`` of all.
        """
        if not self.rows:
            return
        old, rows, forks = list(self.rows), list[BlockTable](), list[BlockTable]()
        left = [table for row, table in enumerate(old) if row not in chosen]
        try:
            for table in left:  # first of all: what they leave may be the only room for a copy
                table.clear()
            for position, row in enumerate(chosen):
                if row in chosen[:position]:
                    forks.append(old[row].fork())
                    rows.append(forks[-1])
                else:
                    rows.append(old[row])
        except BaseException:
            for table in forks + (old if left else []):
                table.clear()
            raise
        self.rows[:] = rows

    def _drop_passed(self, position: int) -> None:
        """Let go of what a query at ``position`` does not see any more."""
        if self.window is not None:
            for table in self.rows:
                table.drop_before(position - self.window + 1)
