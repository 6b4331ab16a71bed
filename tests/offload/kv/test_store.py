import gc
from pathlib import Path

import pytest

from offload.kv.store import Interval, KVStore
from offload.kv.table import BlockTable
from tests.offload.kv.kit import BLOCK, open_store, read, tokens, used_slots
from tiers.block import BlockKey
from tiers.errors import TierFullError
from tiers.manager import LookupResult


def filled(store: KVStore, count: int, first: int = 0, layer: int = 0) -> BlockTable:
    table = BlockTable(store, layer)
    table.append(*tokens(first, count))
    return table


def has_slots(store: KVStore, table: BlockTable) -> list[bool]:
    """Whether each block is on the device or on its way there."""
    return [store.manager.lookup(key) is not LookupResult.BELOW for key in table.blocks]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("slots", [1, 2, 3, 5, 9, 10])
def test_visits_everything_whatever_fits(slots: int, in_order: bool) -> None:
    """Ten full blocks through an arena of any size: down to one at a time."""
    with open_store(slots, host=10) as store:
        table = filled(store, 10 * BLOCK)
        for _ in range(3):
            assert read(store, table, 0, 10 * BLOCK, in_order=in_order) == list(range(10 * BLOCK))
            assert read(store, table, 5, 19, in_order=in_order) == list(range(5, 19))
        table.clear()
        assert used_slots(store) == [0, 0]


def test_visits_through_the_drive(tmp_path: Path) -> None:
    with open_store(2, nvme_dir=tmp_path / "nvme", nvme=8, block=64) as store:
        table = filled(store, 6 * 64 + 10)
        assert read(store, table, 0, 6 * 64 + 10) == list(range(6 * 64 + 10))


def test_the_open_block_stays_while_others_stream() -> None:
    with open_store(2, host=10) as store:
        table = filled(store, 6 * BLOCK + 1)
        assert read(store, table, 0, 6 * BLOCK + 1) == list(range(6 * BLOCK + 1))
        assert has_slots(store, table)[-1]


def test_neighbours_are_one_interval() -> None:
    with open_store(8) as store:
        table = filled(store, 5 * BLOCK + 2)
        found: list[Interval] = []
        store.visit(*table.spans(3, 21), found.append, in_order=True)
        assert found == [Interval(3, 21, 3)]


def test_order_matters_only_where_it_is_asked_for() -> None:
    """Block 0 in slot 1 and block 1 in slot 0: one run of the arena, but not of the sequence."""
    with open_store(2) as store:
        other, table = filled(store, BLOCK), filled(store, BLOCK)
        other.clear()
        table.append(*tokens(BLOCK, BLOCK))
        in_order: list[Interval] = []
        store.visit(*table.spans(0, 2 * BLOCK), in_order.append, in_order=True)
        assert in_order == [Interval(0, BLOCK, BLOCK), Interval(BLOCK, 2 * BLOCK, 0)]
        joined: list[Interval] = []
        store.visit(*table.spans(0, 2 * BLOCK), joined.append, in_order=False)
        assert [(interval.start, interval.stop) for interval in joined] == [(0, 2 * BLOCK)]


@pytest.mark.parametrize("stop_at", [1, 2, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_visitor_that_fails_leaves_no_pins(stop_at: int, error: type[BaseException]) -> None:
    with open_store(3, host=10) as store:
        table = filled(store, 8 * BLOCK)
        calls = 0

        def visitor(_: Interval) -> None:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise error

        with pytest.raises(error):
            store.visit(*table.spans(0, 8 * BLOCK), visitor, in_order=True)
        assert read(store, table, 0, 8 * BLOCK) == list(range(8 * BLOCK))
        table.clear()
        assert used_slots(store) == [0, 0]


def test_a_demand_outranks_what_was_read_ahead() -> None:
    """Blocks of another layer, prefetched and pinned, hold the whole arena: they go when somebody needs the room."""
    with open_store(4, host=16, layers=2, lookahead=1) as store:
        tables = [filled(store, 4 * BLOCK), filled(store, 4 * BLOCK, first=100, layer=1)]

        def blocks_of(layer: int) -> list[BlockKey]:
            return list(tables[layer].blocks)

        ahead = [store.make_prefetcher(blocks_of) for _ in range(2)]
        assert read(store, tables[0], 0, 4 * BLOCK) == list(range(4 * BLOCK))
        for prefetcher in ahead:  # two, each of which may take half of the arena
            assert prefetcher is not None
            prefetcher.advance(0)
        assert all(has_slots(store, tables[1]))
        assert read(store, tables[0], 0, 4 * BLOCK) == list(range(4 * BLOCK))
        more = filled(store, 3 * BLOCK, first=200)
        assert read(store, more, 0, 3 * BLOCK) == list(range(200, 200 + 3 * BLOCK))
        for table in (*tables, more):
            table.clear()
        assert used_slots(store) == [0, 0]


def test_too_much_for_all_tiers() -> None:
    with open_store(2, host=2) as store:
        table = BlockTable(store, 0)
        with pytest.raises(TierFullError, match="is full"):
            table.append(*tokens(0, 5 * BLOCK))
        table.clear()
        assert used_slots(store) == [0, 0]


def test_nothing_is_read_ahead_where_nothing_moves() -> None:
    with open_store(4) as store:
        assert store.make_prefetcher(lambda _: ()) is None


def test_prefetchers_do_not_outlive_their_caches() -> None:
    with open_store(4, host=4) as store:
        prefetcher = store.make_prefetcher(lambda _: ())
        assert prefetcher is not None
        del prefetcher
        gc.collect()
        assert not store.make_way()


def test_blocks_of_dropped_caches_come_back_when_they_are_wanted() -> None:
    with open_store(3) as store:
        store.abandon([[filled(store, 3 * BLOCK)]])
        assert used_slots(store) == [3]
        table = filled(store, 2 * BLOCK)
        assert used_slots(store) == [2]
        assert read(store, table, 0, 2 * BLOCK) == list(range(2 * BLOCK))
