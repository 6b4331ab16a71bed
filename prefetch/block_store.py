"""Blocks of keys and values above a memory manager, shared by all layers and rows of all caches of a model.

Names and slots only. The runtime's store adds tensors to it; the simulator's replay of a generation drives it as it is.
"""

import gc
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from prefetch.budget import PrefetchBudget
from prefetch.next_layer import NextLayerPredictor
from prefetch.prefetcher import Prefetcher
from prefetch.selection import AllBlocks, KVSelector
from tiers.block import BlockKey, KVBlockKey
from tiers.errors import TierFullError
from tiers.manager import LookupResult, TieredMemoryManager

LOOKAHEAD_LAYERS = 6
"""How many layers ahead blocks are brought, unless somebody says otherwise."""

_MOST_NBYTES_AHEAD = 32 * 2**20


def blocks_ahead(num_slots: int, block_nbytes: int) -> int:
    """How many blocks are brought to a device of so many slots before they are needed.

    Enough to keep a fast drive busy over some layers, at most half of the arena: what is on its way takes the place of
    what could stay.
    """
    return max(1, min(num_slots // 2, most_blocks_ahead(block_nbytes)))


def most_blocks_ahead(block_nbytes: int) -> int:
    """The same of a device with any number of slots."""
    return _MOST_NBYTES_AHEAD // block_nbytes


@dataclass(frozen=True, slots=True)
class Interval:
    """A range of token rows of the arena; ``position`` is that of its first token in the sequence."""

    start: int
    stop: int
    position: int


class Span(NamedTuple):
    """The tokens ``first .. stop - 1`` of a block; the first of them stands at ``position`` of its sequence."""

    first: int
    stop: int
    position: int


class Owner(Protocol):
    """Whoever has blocks: a row of a cache."""

    def clear(self) -> None: ...


class BlockStore:
    """Blocks of ``block_tokens`` tokens by key; ``manager`` knows where they are.

    ``lookahead`` is how many layers ahead blocks are prefetched; 0 where everything stays on the device.
    """

    def __init__(
        self,
        manager: TieredMemoryManager,
        block_tokens: int,
        *,
        num_layers: int,
        lookahead: int = LOOKAHEAD_LAYERS,
        selector: KVSelector | None = None,
    ) -> None:
        self.manager = manager
        self.block_tokens = block_tokens
        self.num_layers = num_layers
        self.num_slots = manager.levels[0].pool.num_slots
        self.selector = selector or AllBlocks()
        self.is_still = len(manager.levels) == 1 and isinstance(self.selector, AllBlocks)
        """Whether blocks never move and are all attended to: then there is nothing to load, choose or pin."""
        self._lookahead = lookahead
        self._sequences = itertools.count()
        self._prefetchers: weakref.WeakSet[Prefetcher] = weakref.WeakSet()
        self._abandoned: deque[Sequence[Sequence[Owner]]] = deque()

    def new_sequence(self) -> int:
        """An id that no other row of any cache has."""
        return next(self._sequences)

    def make_prefetcher(self, blocks_of_layer: Callable[[int], Sequence[BlockKey]]) -> Prefetcher | None:
        """One that follows the layers of a model; None where nothing ever leaves the device."""
        if not self._lookahead or len(self.manager.levels) == 1:
            return None
        block_nbytes = self.manager.levels[0].tier.block_nbytes
        most = blocks_ahead(self.num_slots, block_nbytes)
        budget: PrefetchBudget[BlockKey] = PrefetchBudget(None, block_nbytes, max_blocks=most)
        predictor = NextLayerPredictor(blocks_of_layer, self.num_layers, self._lookahead)
        prefetcher = Prefetcher(self.manager, predictor, budget)
        self._prefetchers.add(prefetcher)
        return prefetcher

    def make_way(self) -> bool:
        """Let go of what is not needed: blocks prefetched and not used, blocks of dropped caches. False if none is."""
        if self.reclaim() + sum(prefetcher.stop() for prefetcher in self._prefetchers) > 0:
            return True
        gc.collect()  # a dropped cache may hang in a cycle, such as that of an error and its traceback
        return self.reclaim() > 0

    def abandon(self, owners: Sequence[Sequence[Owner]]) -> None:
        """A cache is gone that was not closed. Called by the garbage collector at any moment: only takes note."""
        self._abandoned.append(owners)

    def reclaim(self) -> int:
        """Give the blocks of dropped caches back; returns of how many rows."""
        count = 0
        while self._abandoned:
            for owner in itertools.chain.from_iterable(self._abandoned[0]):
                owner.clear()
                count += 1
            self._abandoned.popleft()  # not before: clearing may be interrupted
        return count

    def copy(self, source_slot: int, slot: int, offset: int, start: int, stop: int) -> None:
        """Put the tokens ``start .. stop - 1`` of a block into an open one, from its token ``offset`` on.

        Here there are no bytes to move.
        """

    def visit(
        self,
        keys: Sequence[KVBlockKey],
        spans: Sequence[Span],
        visitor: Callable[[Interval], None],
        *,
        in_order: bool,
    ) -> None:
        """As ``visit_waves``, for a visitor that takes one run after the other."""

        def each(intervals: Sequence[Interval]) -> None:
            for interval in intervals:
                visitor(interval)

        self.visit_waves(keys, spans, each, in_order=in_order)

    def visit_waves(
        self,
        keys: Sequence[KVBlockKey],
        spans: Sequence[Span],
        visitor: Callable[[Sequence[Interval]], None],
        *,
        in_order: bool,
    ) -> None:
        """Call ``visitor`` with the runs of tokens of the given blocks, while their bytes stay where they are.

        It gets those together that are ready together. What is on the device is visited while the rest is on its way,
        and no more at a time than the device has room for. ``in_order`` keeps the tokens of a run in the order of the
        sequence; attention without a mask does not care and gets longer runs.
        """
        pending = [(list(keys), list(spans))]
        while pending:
            some_keys, some_spans = pending.pop()
            try:
                self.manager.prepare_load(some_keys)
            except TierFullError:
                half = len(some_keys) // 2
                if half:
                    pending += [(some_keys[half:], some_spans[half:]), (some_keys[:half], some_spans[:half])]
                elif self.make_way():
                    pending.append((some_keys, some_spans))
                else:
                    raise
                continue
            for prefetcher in self._prefetchers:
                prefetcher.used(some_keys)
            self._visit_loaded(some_keys, some_spans, visitor, in_order=in_order)

    def _visit_loaded(
        self,
        keys: list[KVBlockKey],
        spans: list[Span],
        visitor: Callable[[Sequence[Interval]], None],
        *,
        in_order: bool,
    ) -> None:
        manager = self.manager
        held = set(range(len(keys)))
        try:
            here = [i for i in range(len(keys)) if manager.lookup(keys[i]) is LookupResult.HIT]
            on_its_way = sorted(held.difference(here))
            for wave in filter(None, (here, on_its_way)):
                wave_keys = [keys[i] for i in wave]
                held.difference_update(wave)  # complete_load gives the pins back by itself if it fails
                slots = manager.complete_load(wave_keys)
                try:
                    visitor(self._intervals(slots, [spans[i] for i in wave], in_order=in_order))
                finally:
                    manager.release(wave_keys)
        except BaseException:
            manager.release([keys[i] for i in held])
            raise

    def _intervals(self, slots: Sequence[int], spans: Sequence[Span], *, in_order: bool) -> list[Interval]:
        """Pieces that are neighbours in the arena, and if need be in the sequence too, joined."""
        size = self.block_tokens
        pieces = sorted(
            (slot * size + span.first, slot * size + span.stop, span.position)
            for slot, span in zip(slots, spans, strict=True)
        )
        joined: list[Interval] = []
        start, stop, position = pieces[0]
        for next_start, next_stop, next_position in pieces[1:]:
            if next_start == stop and (not in_order or next_position == position + stop - start):
                stop = next_stop
            else:
                joined.append(Interval(start, stop, position))
                start, stop, position = next_start, next_stop, next_position
        joined.append(Interval(start, stop, position))
        return joined
