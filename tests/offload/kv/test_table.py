"""What a row's table holds as it grows, forks, rolls back and forgets."""

from pathlib import Path

import pytest
import torch

from offload.kv.table import BlockTable
from tests.offload.kv.kit import BLOCK, DIM, HEADS, check, open_store, tokens, used_slots


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


def test_keys_and_values_keep_their_shapes() -> None:
    with open_store(2) as store:
        table = BlockTable(store, 0)
        keys, values = torch.randn(3, HEADS, DIM), torch.randn(3, HEADS, DIM)
        table.append(keys, values)
        assert torch.equal(store.keys[:3], keys)
        assert torch.equal(store.values[:3], values)


def test_on_a_drive(tmp_path: Path) -> None:
    with open_store(2, nvme_dir=tmp_path / "nvme", nvme=8, block=64) as store:
        table = BlockTable(store, 0)
        table.append(*tokens(0, 300))
        table.crop(130)
        table.append(*tokens(500, 200))
        check(store, table, [*range(130), *range(500, 700)])
