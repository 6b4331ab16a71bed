from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from offload.kv.store import KVStore
from offload.kv.table import BlockTable
from tests.offload.kv.kit import BLOCK, DIM, HEADS, open_store, read, tokens, used_slots
from tiers.errors import TierFullError


def check(store: KVStore, table: BlockTable, expected: list[int], first: int = 0) -> None:
    """The tokens from position ``first`` on are those expected."""
    assert table.num_tokens == len(expected)
    if first < len(expected):
        assert read(store, table, first, len(expected)) == expected[first:]


@pytest.mark.parametrize("pieces", [[1], [4], [5], [3, 1, 4], [1] * 9, [11, 2, 20], [0, 3]])
def test_appends_in_any_pieces(pieces: list[int]) -> None:
    with open_store(3, host=20) as store:
        table, expected = BlockTable(store, 0), list[int]()
        for piece in pieces:
            table.append(*tokens(len(expected), piece))
            expected += range(len(expected), len(expected) + piece)
            check(store, table, expected)


def test_spans() -> None:
    with open_store(4) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 14))
        keys, spans = table.spans(3, 10)
        assert keys == table.blocks[:3]
        assert spans == [(3, 4, 3), (0, 4, 4), (0, 2, 8)]


@pytest.mark.parametrize("kept", range(11))
def test_rolls_back_and_goes_on(kept: int) -> None:
    """From 10 tokens to any number, with blocks that have left the device in between."""
    with open_store(3, host=20) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 10))
        table.crop(kept)
        check(store, table, list(range(kept)))
        table.append(*tokens(100, 7))
        check(store, table, [*range(kept), *range(100, 107)])


def test_forks_share_full_blocks_and_part_ways() -> None:
    with open_store(6) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 2 * BLOCK + 1))
        fork = table.fork()
        assert used_slots(store) == [4]
        table.append(*tokens(50, 2))
        fork.append(*tokens(70, 1))
        check(store, table, [*range(9), 50, 51])
        check(store, fork, [*range(9), 70])
        table.clear()
        check(store, fork, [*range(9), 70])
        fork.clear()
        assert used_slots(store) == [0]


@pytest.mark.parametrize("kept", [4, 5, 7, 8])
def test_rolling_back_into_a_shared_block_leaves_the_other_row_alone(kept: int) -> None:
    """At a block's border too, where the next block of the row must not take the name of the other row's."""
    with open_store(8) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 2 * BLOCK))
        fork = table.fork()
        table.crop(kept)
        table.append(*tokens(40, 6))
        check(store, table, [*range(kept), *range(40, 46)])
        check(store, fork, list(range(8)))
        fork.crop(kept)
        fork.append(*tokens(60, 6))
        check(store, fork, [*range(kept), *range(60, 66)])
        check(store, table, [*range(kept), *range(40, 46)])


def test_a_window_drops_blocks_and_not_positions() -> None:
    with open_store(6) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 18))
        table.drop_before(9)
        assert (table.num_dropped, used_slots(store)) == (2, [3])
        check(store, table, list(range(18)), first=8)
        table.drop_before(3)
        assert table.num_dropped == 2
        fork = table.fork()
        table.append(*tokens(18, 3))
        table.crop(13)
        check(store, table, list(range(13)), first=8)
        check(store, fork, list(range(18)), first=8)


def origin_of(table: BlockTable) -> int | None:
    return table.origin


def test_knows_where_blocks_lie_that_stay() -> None:
    """Only while all are neighbours and there is no other level to which they could go."""
    with open_store(8) as store:
        table, other = BlockTable(store, 0), BlockTable(store, 0)
        table.append(*tokens(0, 6))
        table.append(*tokens(6, 3))
        assert origin_of(table) == 0
        other.append(*tokens(0, 4))
        table.append(*tokens(9, 4))
        assert origin_of(table) is None  # other took the next slot
        table.clear()
        table.append(*tokens(0, 1))
        assert origin_of(table) == 0
        assert origin_of(table.fork()) is not None  # nothing is shared yet
        table.append(*tokens(1, 4))
        assert origin_of(table.fork()) is None
    with open_store(8, host=1) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 6))
        assert origin_of(table) is None


def test_origin_points_at_the_tokens() -> None:
    with open_store(10) as store:
        BlockTable(store, 0).append(*tokens(0, 5))
        table = BlockTable(store, 0, home=3)
        table.append(*tokens(20, 18))
        table.drop_before(8)
        table.crop(15)
        table.append(*tokens(70, 2))
        assert table.origin is not None
        found = store.keys[table.origin + 8 : table.origin + 17, 0, 0]
        assert found.tolist() == [*range(28, 35), 70, 71]


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
        wait, count = store.manager.mover.wait, 0

        def interrupted(transfer: Any) -> None:
            nonlocal count
            count += 1
            if count == calls:
                raise KeyboardInterrupt
            wait(transfer)

        arguments = {"clear": (), "crop": (0,), "drop_before": (16,)}[act]
        with patch.object(store.manager.mover, "wait", interrupted), pytest.raises(KeyboardInterrupt):
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


def test_keys_and_values_keep_their_shapes() -> None:
    with open_store(2) as store:
        table = BlockTable(store, 0)
        keys, values = torch.randn(3, HEADS, DIM), torch.randn(3, HEADS, DIM)
        table.append(keys, values)
        assert torch.equal(store.keys[:3], keys)
        assert torch.equal(store.values[:3], values)


class Rows(RuleBasedStateMachine):
    """Rows that grow, fork, roll back and lose their past, against plain lists of token numbers."""

    rows: Bundle[int] = Bundle("rows")

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[int, tuple[BlockTable, list[int]]] = {}
        self.next_token = 0

    @initialize(target=rows, device=st.integers(6, 9), host=st.sampled_from([0, 60]))
    def start(self, device: int, host: int) -> int:
        self.scope = open_store(device if host else 80, host=host)
        self.store = self.scope.__enter__()
        return self._add(BlockTable(self.store, 0), [])

    @rule(target=rows)
    def new(self) -> "int | MultipleResults[int]":
        return self._add(BlockTable(self.store, 0), []) if len(self.tables) < 4 else multiple()

    @rule(target=rows, row=rows)
    def fork(self, row: int) -> "int | MultipleResults[int]":
        if len(self.tables) >= 4:
            return multiple()
        table, expected = self.tables[row]
        return self._add(table.fork(), list(expected))

    @rule(row=rows, count=st.integers(1, 13))
    def append(self, row: int, count: int) -> None:
        table, expected = self.tables[row]
        if len(expected) + count > 40:
            return
        table.append(*tokens(self.next_token, count))
        expected += range(self.next_token, self.next_token + count)
        self.next_token += count

    @rule(row=rows, share=st.floats(0, 1))
    def crop(self, row: int, share: float) -> None:
        table, expected = self.tables[row]
        least = table.num_dropped * BLOCK
        kept = least + round(share * (len(expected) - least))
        table.crop(kept)
        del expected[kept:]

    @rule(row=rows, share=st.floats(0, 1))
    def drop(self, row: int, share: float) -> None:
        table, expected = self.tables[row]
        table.drop_before(int(share * len(expected)))

    @rule(row=consumes(rows))
    def clear(self, row: int) -> None:
        self.tables.pop(row)[0].clear()

    @rule(row=rows, share=st.floats(0, 1))
    def read(self, row: int, share: float) -> None:
        table, expected = self.tables[row]
        first = max(table.num_dropped * BLOCK, int(share * len(expected)))
        check(self.store, table, expected, first)
        if table.origin is not None:
            keys = self.store.keys[table.origin + first : table.origin + len(expected), 0, 0]
            assert keys.tolist() == expected[first:]

    @invariant()
    def books_are_in_order(self) -> None:
        if hasattr(self, "store"):
            self.store.manager.check()

    def teardown(self) -> None:
        for table, _ in self.tables.values():
            table.clear()
        if hasattr(self, "store"):
            assert not any(used_slots(self.store))
            self.scope.__exit__(None, None, None)

    def _add(self, table: BlockTable, expected: list[int]) -> int:
        name = self.next_token = self.next_token + 1
        self.tables[name] = (table, expected)
        return name


def test_rows_against_lists() -> None:
    run_state_machine_as_test(Rows, settings=settings(max_examples=60, stateful_step_count=25, deadline=None))


def test_on_a_drive(tmp_path: Path) -> None:
    with open_store(2, nvme_dir=tmp_path / "nvme", nvme=8, block=64) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 300))
        table.crop(130)
        table.append(*tokens(500, 200))
        check(store, table, [*range(130), *range(500, 700)])
