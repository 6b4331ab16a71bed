"""Rows against lists, whatever is done to them in whatever order."""

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

from offload.kv.table import BlockTable
from tests.offload.kv.kit import BLOCK, check, open_store, tokens, used_slots


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
