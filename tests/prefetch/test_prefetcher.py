"""The prefetcher drives a real manager over two memories."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from prefetch.base import Prediction, Predictor
from prefetch.budget import LinkEstimate, PrefetchBudget
from prefetch.next_layer import NextLayerPredictor
from prefetch.prefetcher import Prefetcher
from tests.tiers.kit import BLOCK_NBYTES, key
from tiers.block import BlockKey
from tiers.errors import TierFullError
from tiers.eviction.lru import LRUPolicy
from tiers.eviction.next_use import NextUsePolicy
from tiers.manager import Level, LookupResult, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.pool import BlockPool
from tiers.transfer import TransferEngine

BLOCKS = 8


class Fixed(Predictor[BlockKey]):
    """Says what a test wants it to say."""

    def __init__(self) -> None:
        self.keys: Sequence[BlockKey] = ()

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        return [Prediction(self.keys, 1.0, 1)]


@contextmanager
def below(slots: int) -> Iterator[TieredMemoryManager]:
    """Eight blocks, of which at most the last ones are on the device."""
    tiers = [MemoryTier("device", slots, BLOCK_NBYTES), MemoryTier("host", 2 * BLOCKS, BLOCK_NBYTES)]
    engine = TransferEngine()
    levels = [Level(tier, BlockPool(tier.num_slots), LRUPolicy(tier.num_slots)) for tier in tiers]
    manager = TieredMemoryManager(engine, levels)
    for i in range(BLOCKS):
        manager.prepare_store([key(i)])
        manager.complete_store([key(i)])
    try:
        yield manager
        manager.check()
    finally:
        engine.close()
        for tier in tiers:
            tier.close()


def make(manager: TieredMemoryManager, most: int) -> tuple[Prefetcher, Fixed, PrefetchBudget[BlockKey]]:
    predictor = Fixed()
    budget: PrefetchBudget[BlockKey] = PrefetchBudget(LinkEstimate(1e9, 1e-3), BLOCK_NBYTES, most)
    return Prefetcher(manager, predictor, budget), predictor, budget


def use(manager: TieredMemoryManager, prefetcher: Prefetcher, *indices: int) -> None:
    keys = [key(i) for i in indices]
    manager.prepare_load(keys)
    prefetcher.used(keys)
    manager.complete_load(keys)
    manager.release(keys)


def is_below(manager: TieredMemoryManager, index: int) -> bool:
    return manager.lookup(key(index)) is LookupResult.BELOW


def test_brings_what_is_predicted_and_misses_nothing_then() -> None:
    with below(4) as manager:
        prefetcher, predictor, budget = make(manager, 2)
        predictor.keys = [key(0), key(1), key(2)]
        prefetcher.advance(0)
        assert list(budget.outstanding) == [key(0), key(1)]
        use(manager, prefetcher, 0, 1)
        assert not budget.outstanding
        assert manager.stats.misses == 0
        assert manager.stats.hits + manager.stats.pending_hits == 2


def test_tells_the_policy_what_follows_before_room_is_made() -> None:
    """Of two blocks that were used alike, the one that is foreseen stays."""
    with below(4) as manager:
        manager.levels[0].policy = policy = NextUsePolicy[BlockKey](4)
        for i in range(4, 8):
            policy.insert(key(i))
        prefetcher, predictor, budget = make(manager, 2)
        predictor.keys = [key(4), key(5)]
        prefetcher.foresee(0)
        use(manager, prefetcher, 0, 1)
        assert not is_below(manager, 4)
        assert not is_below(manager, 5)
        assert not budget.outstanding
        predictor.keys = []
        prefetcher.request()  # by what it foresaw
        use(manager, prefetcher, 2, 3)
        assert not is_below(manager, 4)
        prefetcher.advance(1)


def test_does_not_ask_for_what_is_there() -> None:
    with below(4) as manager:
        prefetcher, predictor, budget = make(manager, 2)
        predictor.keys = [key(7), key(6), key(0)]
        prefetcher.advance(0)
        assert list(budget.outstanding) == [key(0)]


def test_gives_up_what_is_predicted_no_longer() -> None:
    """Its slot may be taken again, and its place in the budget too."""
    with below(2) as manager:
        prefetcher, predictor, budget = make(manager, 2)
        predictor.keys = [key(0), key(1)]
        prefetcher.advance(0)
        predictor.keys = [key(1), key(2)]
        prefetcher.advance(1)
        assert list(budget.outstanding) == [key(1), key(2)]
        assert is_below(manager, 0)
        use(manager, prefetcher, 1, 2)
        assert not budget.outstanding


def test_stop_gives_up_everything() -> None:
    with below(2) as manager:
        prefetcher, predictor, budget = make(manager, 2)
        assert not prefetcher.stop()
        predictor.keys = [key(0), key(1)]
        prefetcher.advance(0)
        with pytest.raises(TierFullError):
            manager.prepare_load([key(4)])
        assert prefetcher.stop()
        assert not prefetcher.stop()
        assert not budget.outstanding
        use(manager, prefetcher, 4, 5)


def test_blocks_that_go_away_while_they_are_on_their_way() -> None:
    """The sequence that they belong to is closed."""
    with below(3) as manager:
        prefetcher, predictor, budget = make(manager, 2)
        predictor.keys = [key(0), key(1)]
        prefetcher.advance(0)
        manager.discard([key(0), key(1)])
        predictor.keys = [key(2)]
        prefetcher.advance(1)
        assert list(budget.outstanding) == [key(2)]
        assert prefetcher.stop()
        assert manager.lookup(key(0)) is LookupResult.MISS


def test_what_finds_no_room_does_not_count() -> None:
    """Every slot is in use: nothing is requested, and later it is asked for again."""
    with below(2) as manager:
        prefetcher, predictor, budget = make(manager, 2)
        manager.prepare_load([key(6), key(7)])
        predictor.keys = [key(0)]
        prefetcher.advance(0)
        assert not budget.outstanding
        manager.release([key(6), key(7)])
        prefetcher.advance(1)
        assert list(budget.outstanding) == [key(0)]
        prefetcher.stop()


def test_follows_the_layers_of_a_model() -> None:
    """Two blocks for each of four layers, through an arena of four: after the first round nothing is missed."""
    with below(4) as manager:
        layers = [[key(2 * i), key(2 * i + 1)] for i in range(4)]
        budget: PrefetchBudget[BlockKey] = PrefetchBudget(LinkEstimate(1e9, 1e-3), BLOCK_NBYTES, 2)
        prefetcher = Prefetcher(manager, NextLayerPredictor(lambda i: layers[i], 4, 1), budget)
        for turn in range(3):
            before = manager.stats.misses
            for step in range(4):
                use(manager, prefetcher, 2 * step, 2 * step + 1)
                prefetcher.advance(step)
            assert manager.stats.misses - before == (0 if turn else 2)
        prefetcher.stop()
