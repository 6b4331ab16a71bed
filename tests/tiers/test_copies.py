"""Which ranges are copied between two memories: tables of blocks, and every byte of random ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiers.chunks import Move
from tiers.copies import join_neighbours, plan_copies
from tiers.slots import SlotLayout, even_slots, slots_of_sizes

KIB = 1024
Table = list[list[tuple[int, int, int]]]


def plan(source: SlotLayout, target: SlotLayout, moves: list[tuple[int, int]], max_nbytes: int) -> Table:
    """The runs of each chunk: first byte in the source, first byte in the target, number of bytes, in KiB."""
    chunks = plan_copies(source, target, [Move(*move) for move in moves], max_nbytes * KIB)
    assert all(chunk.nbytes == chunk.runs[:, 2].sum() <= max_nbytes * KIB for chunk in chunks)
    return [[(s // KIB, t // KIB, n // KIB) for s, t, n in chunk.runs.tolist()] for chunk in chunks]


@pytest.mark.parametrize(
    ("moves", "max_kib", "expected"),
    [
        pytest.param([], 32, [], id="nothing to move"),
        pytest.param([(1, 0), (2, 1)], 32, [[(4, 0, 8)]], id="neighbours in both are one range"),
        pytest.param([(1, 0), (2, 2)], 32, [[(4, 0, 4), (8, 8, 4)]], id="neighbours in one only are not"),
        pytest.param([(3, 0), (1, 5), (2, 6)], 32, [[(12, 0, 4), (4, 20, 8)]], id="in the order of the moves"),
        pytest.param([(1, 0), (3, 2), (5, 4)], 8, [[(4, 0, 4), (12, 8, 4)], [(20, 16, 4)]], id="as many as fit"),
        pytest.param([(0, 4), (1, 5), (2, 6)], 5, [[(0, 16, 5)], [(5, 21, 5)], [(10, 26, 2)]], id="large ones are cut"),
        pytest.param([(0, 4), (1, 5), (2, 7)], 7, [[(0, 16, 7)], [(7, 23, 1), (8, 28, 4)]], id="the rest has company"),
    ],
)
def test_blocks_become_ranges(moves: list[tuple[int, int]], max_kib: int, expected: Table) -> None:
    assert plan(even_slots(8, 4 * KIB), even_slots(8, 4 * KIB), moves, max_kib) == expected


def test_slots_may_have_sizes_of_their_own() -> None:
    """A block may be smaller than the slot that it is copied to, which then is no neighbour of the next."""
    source = slots_of_sizes([4 * KIB, 12 * KIB, 8 * KIB])
    assert plan(source, even_slots(3, 12 * KIB), [(0, 0), (1, 1)], 64) == [[(0, 0, 4), (4, 12, 12)]]
    with pytest.raises(ValueError, match="12288 bytes do not fit in slot 2"):
        plan(source, even_slots(3, 8 * KIB), [(0, 0), (1, 2)], 64)


@pytest.mark.parametrize("move", [(8, 0), (0, 8), (99, 99)])
def test_slots_have_to_be_there(move: tuple[int, int]) -> None:
    with pytest.raises(IndexError):
        plan(even_slots(8, 4 * KIB), even_slots(8, 4 * KIB), [move], 64)


def test_joins_what_it_is_given() -> None:
    assert join_neighbours([(0, 8, 4), (4, 12, 2), (8, 14, 2)]).tolist() == [[0, 8, 6], [8, 14, 2]]


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    max_kib=st.integers(1, 40),
    data=st.data(),
)
def test_every_byte_goes_where_it_belongs(sizes: list[int], max_kib: int, data: st.DataObject) -> None:
    """Between slots of their own sizes, with a byte for a KiB."""
    order = data.draw(st.permutations(range(len(sizes))))
    sources = data.draw(st.lists(st.sampled_from(range(len(sizes))), unique=True))
    source = SlotLayout(np.cumsum([0, *sizes]).tolist())
    target = SlotLayout(np.cumsum([0, *(sizes[slot] for slot in order)]).tolist())
    moves = [Move(slot, order.index(slot)) for slot in sources]
    memory = np.arange(1, source.nbytes + 1)
    found = np.zeros(target.nbytes, np.int64)
    for chunk in plan_copies(source, target, moves, max_kib):
        assert chunk.nbytes <= max_kib
        for start, place, nbytes in chunk.runs.tolist():
            assert not found[place : place + nbytes].any()
            found[place : place + nbytes] = memory[start : start + nbytes]
    for slot in range(len(sizes)):
        expected = memory[source.range_of(slot)] if slot in sources else 0
        assert (found[target.range_of(order.index(slot))] == expected).all()
