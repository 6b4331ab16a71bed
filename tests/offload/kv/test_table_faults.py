"""What is left of a row where there is no room, or where it is interrupted."""

from collections.abc import Collection
from unittest.mock import patch

import pytest

from offload.kv.table import BlockTable
from tests.offload.kv.kit import BLOCK, check, open_store, tokens, used_slots
from tiers.block import BlockKey
from tiers.errors import TierFullError
from tiers.placement import Placement


def test_no_room_half_way_keeps_what_fitted_and_gives_it_back() -> None:
    with open_store(2, host=2) as store:
        other, table = BlockTable(store, 0), BlockTable(store, 0)
        other.append(*tokens(0, 1))
        table.append(*tokens(0, 6))
        with pytest.raises(TierFullError):
            table.append(*tokens(6, 30))
        assert table.num_tokens >= 6
        table.crop(5)
        other.clear()
        check(store, table, list(range(5)))
        table.clear()
        assert used_slots(store) == [0, 0]


@pytest.mark.parametrize("failing_call", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 2, 4, 8])
def test_an_interrupted_append_leaves_a_table_that_works(start: int, failing_call: int) -> None:
    with open_store(16) as store:
        # Every other slot is taken, so that no two blocks are written at once.
        fillers = [BlockTable(store, 1) for _ in range(16)]
        for filler in fillers:
            filler.append(*tokens(0, BLOCK))
        for filler in fillers[::2]:
            filler.clear()
        table = BlockTable(store, 0)
        table.append(*tokens(0, start))
        calls = 0

        def interrupt(*_: object) -> None:
            nonlocal calls
            calls += 1
            if calls == failing_call:
                raise KeyboardInterrupt

        with patch.object(store, "write", side_effect=interrupt), pytest.raises(KeyboardInterrupt):
            table.append(*tokens(start, 12))
        used_slots(store)
        table.crop(min(start, table.num_tokens))
        kept = table.num_tokens
        assert kept in (start, start // BLOCK * BLOCK)
        table.append(*tokens(30, 5))
        check(store, table, [*range(kept), *range(30, 35)])
        table.clear()
        assert used_slots(store) == [8]


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("act", ["clear", "crop", "drop_before"])
def test_interrupted_while_blocks_are_given_back(act: str, calls: int) -> None:
    """Ctrl-C while a block on its way is waited for: the table is what it was or shorter, and can be cleared again."""
    with open_store(3, host=20) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 18))
        settle, count = Placement.settle, 0

        def interrupted(placement: Placement, keys: Collection[BlockKey], at: int | None = None) -> None:
            nonlocal count
            count += 1
            if count == calls:
                raise KeyboardInterrupt
            settle(placement, keys, at)

        arguments = {"clear": (), "crop": (0,), "drop_before": (16,)}[act]
        with patch.object(Placement, "settle", interrupted), pytest.raises(KeyboardInterrupt):
            getattr(table, act)(*arguments)
        check(store, table, list(range(table.num_tokens)), first=table.num_dropped * BLOCK)
        table.append(*tokens(table.num_tokens, 3))
        check(store, table, list(range(table.num_tokens)), first=table.num_dropped * BLOCK)
        table.clear()
        assert used_slots(store) == [0, 0]


def test_no_room_for_the_copy_of_a_tail() -> None:
    with open_store(2) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 5))
        with pytest.raises(TierFullError):
            table.fork()
        check(store, table, list(range(5)))
        table.clear()
        assert used_slots(store) == [0]


def test_no_room_for_the_copy_of_a_shared_block() -> None:
    """The row that rolls back ends at the border before it; the other one has lost nothing."""
    with open_store(2) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 8))
        fork = table.fork()
        with pytest.raises(TierFullError):
            table.crop(6)
        check(store, table, list(range(4)))
        check(store, fork, list(range(8)))
        table.clear()
        check(store, fork, list(range(8)))
        fork.clear()
        assert used_slots(store) == [0]
