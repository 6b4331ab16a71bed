"""How a transfer is cut into requests: tables of blocks, and the requests that should come of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiers.chunks import Chunk, Move, plan_chunks
from tiers.io_queue import IOQueue
from tiers.slots import even_slots
from tiers.tier import Extent

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Files:
    """Slots that are ranges of imaginary files; the planner does no I/O."""

    slots: Sequence[Sequence[Extent]]

    def extents(self, slot: int) -> Sequence[Extent]:
        return self.slots[slot]

    def open_queue(self, depth: int) -> IOQueue:
        raise AssertionError("planning needs no queue")


class Memory:
    """Slots of some pages each, the first two bytes of every page its slot and its place in the slot."""

    def __init__(self, num_slots: int, num_pages: int) -> None:
        self._nbytes = num_pages * PAGE
        self.buffer = memoryview(bytearray(num_slots * self._nbytes))
        for page in range(num_slots * num_pages):
            self.buffer[page * PAGE] = page // num_pages
            self.buffer[page * PAGE + 1] = page % num_pages

    def view(self, slot: int) -> memoryview:
        return self.buffer[slot * self._nbytes : (slot + 1) * self._nbytes]


def one_file(num_slots: int, num_pages: int) -> Files:
    """Slot after slot in the file 3."""
    nbytes = num_pages * PAGE
    return Files([[Extent(3, slot * nbytes, nbytes, nbytes)] for slot in range(num_slots)])


def describe(chunks: Sequence[Chunk[memoryview]]) -> list[tuple[int, int, list[str]]]:
    """File, first page, and the pages of memory that belong to it: "slot.page", one string for each buffer."""
    return [
        (
            chunk.fd,
            chunk.offset // PAGE,
            [" ".join(f"{b[i]}.{b[i + 1]}" for i in range(0, b.nbytes, PAGE)) for b in chunk.buffers],
        )
        for chunk in chunks
    ]


def plan(files: Files, memory: Memory, moves: Sequence[tuple[int, int]], max_pages: int) -> list[Chunk[memoryview]]:
    return plan_chunks(files, memory.view, [Move(*move) for move in moves], max_pages * PAGE, is_write=False)


@pytest.mark.parametrize(
    ("moves", "max_pages", "expected"),
    [
        pytest.param([], 8, [], id="nothing to move"),
        pytest.param([(2, 0)], 8, [(3, 4, ["0.0 0.1"])], id="one block"),
        pytest.param([(1, 0), (2, 1)], 8, [(3, 2, ["0.0 0.1", "1.0 1.1"])], id="neighbours are joined"),
        pytest.param(
            [(2, 0), (0, 1), (1, 2)],
            8,
            [(3, 0, ["1.0 1.1", "2.0 2.1", "0.0 0.1"])],
            id="neighbours in the file, in file order, whatever their order and their place in memory",
        ),
        pytest.param([(0, 0), (2, 1)], 8, [(3, 0, ["0.0 0.1"]), (3, 4, ["1.0 1.1"])], id="others are not"),
        pytest.param(
            [(0, 0), (1, 1), (2, 2)],
            4,
            [(3, 0, ["0.0 0.1", "1.0 1.1"]), (3, 4, ["2.0 2.1"])],
            id="joined up to the largest request",
        ),
        pytest.param([(1, 0)], 1, [(3, 2, ["0.0"]), (3, 3, ["0.1"])], id="large blocks are cut"),
        pytest.param([(1, 0), (1, 1)], 8, [(3, 2, ["0.0 0.1"]), (3, 2, ["1.0 1.1"])], id="one block to two places"),
    ],
)
def test_blocks_of_two_pages(
    moves: Sequence[tuple[int, int]], max_pages: int, expected: list[tuple[int, int, list[str]]]
) -> None:
    assert describe(plan(one_file(3, 2), Memory(3, 2), moves, max_pages)) == expected


def test_writes_are_reads_the_other_way_round() -> None:
    chunks = plan_chunks(one_file(4, 1), Memory(4, 1).view, [Move(0, 3), Move(1, 2)], 8 * PAGE, is_write=True)
    assert describe(chunks) == [(3, 2, ["1.0", "0.0"])]


def test_a_block_of_several_ranges_fills_its_slot_in_their_order() -> None:
    files = Files([[Extent(5, 8 * PAGE, PAGE, PAGE), Extent(4, 0, 2 * PAGE, 2 * PAGE)]])
    assert describe(plan(files, Memory(1, 3), [(0, 0)], 8)) == [(4, 0, ["0.1 0.2"]), (5, 8, ["0.0"])]


def test_neighbours_are_joined_in_each_of_two_files() -> None:
    """Although their offsets alternate."""
    files = Files([[Extent(fd, page * PAGE, PAGE, PAGE)] for page in range(3) for fd in (3, 4)])
    chunks = plan(files, Memory(6, 1), [(slot, slot) for slot in range(6)], 8)
    assert describe(chunks) == [(3, 0, ["0.0", "2.0", "4.0"]), (4, 0, ["1.0", "3.0", "5.0"])]


def test_only_what_the_file_has_is_required() -> None:
    """The last page is cut off by the end of the file; the requests still cover whole pages."""
    required = 2 * PAGE + 100
    files = Files([[Extent(3, 0, PAGE, PAGE)], [Extent(3, PAGE, 4 * PAGE, required)]])
    whole = plan(files, Memory(2, 4), [(1, 0)], 8)
    assert [(chunk.required, len(chunk.buffers[0])) for chunk in whole] == [(required, 4 * PAGE)]
    cut = plan(files, Memory(2, 4), [(1, 0)], 1)
    assert [chunk.required for chunk in cut] == [PAGE, PAGE, 100, 0]
    joined = plan(Files([[*files.slots[0], *files.slots[1]]]), Memory(1, 5), [(0, 0)], 8)
    assert [(chunk.required, len(chunk.buffers)) for chunk in joined] == [(PAGE + required, 2)]


def test_nothing_is_joined_to_a_range_of_which_only_a_part_is_required() -> None:
    """Its buffer takes whole pages: what follows in the file would land in it, and what follows it somewhere else."""
    files = Files([[Extent(3, 0, 2 * PAGE, PAGE)], [Extent(3, PAGE, PAGE, PAGE)], [Extent(3, 2 * PAGE, PAGE, PAGE)]])
    assert describe(plan(files, Memory(3, 2), [(0, 0), (1, 1)], 8)) == [(3, 0, ["0.0 0.1"]), (3, 1, ["1.0"])]
    assert describe(plan(files, Memory(3, 2), [(0, 0), (2, 1)], 8)) == [(3, 0, ["0.0 0.1"]), (3, 2, ["1.0"])]


def test_a_request_has_a_limited_number_of_buffers() -> None:
    chunks = plan(one_file(150, 1), Memory(150, 1), [(slot, slot) for slot in range(150)], 1000)
    assert [len(chunk.buffers) for chunk in chunks] == [64, 64, 22]
    assert [chunk.offset for chunk in chunks] == [0, 64 * PAGE, 128 * PAGE]


def test_memory_may_be_places_in_the_memory_of_a_device() -> None:
    """And every buffer says which block it is of, and which part of that."""
    moves = [Move(1, 0), Move(0, 2)]
    layout = even_slots(3, 2 * PAGE)
    (chunk,) = plan_chunks(one_file(3, 2), layout.range_of, moves, 8 * PAGE, is_write=False)
    assert chunk.buffers == (range(4 * PAGE, 6 * PAGE), range(2 * PAGE))
    assert chunk.places == ((moves[1], 0), (moves[0], 0))
    first, second = plan_chunks(one_file(3, 2), layout.range_of, moves[:1], PAGE, is_write=False)
    assert (first.buffers, first.places) == ((range(PAGE),), ((moves[0], 0),))
    assert (second.buffers, second.places) == ((range(PAGE, 2 * PAGE),), ((moves[0], PAGE),))


@settings(deadline=None)
@given(
    moves=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), unique_by=(lambda m: m[0], lambda m: m[1])),
    max_pages=st.integers(1, 5),
    is_write=st.booleans(),
)
def test_every_page_goes_where_it_belongs_once(moves: list[tuple[int, int]], max_pages: int, is_write: bool) -> None:
    chunks = plan_chunks(
        one_file(8, 3), Memory(8, 3).view, [Move(*move) for move in moves], max_pages * PAGE, is_write=is_write
    )
    found = {}
    for _, page, buffers in describe(chunks):
        for place, name in enumerate(" ".join(buffers).split()):
            assert page + place not in found
            found[page + place] = name
    pairs = [move[::-1] if is_write else move for move in moves]
    assert found == {file * 3 + i: f"{memory}.{i}" for file, memory in pairs for i in range(3)}
    assert all(chunk.required == sum(b.nbytes for b in chunk.buffers) <= max_pages * PAGE for chunk in chunks)
    assert [(c.fd, c.offset) for c in chunks] == sorted((c.fd, c.offset) for c in chunks)
