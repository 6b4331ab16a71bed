"""Distances of reuse, and the parts of the gap to Belady."""

from hypothesis import given
from hypothesis import strategies as st

from simulators.belady import ideal_hit_ratio, ideal_hits
from simulators.gap import GapFinder
from simulators.kv_trace.base import Request
from simulators.reuse import COLD, reuse_distances, session_ages
from tests.contracts.eviction import count_hits
from tiers.eviction.lru import LRUPolicy

BLOCKS = st.lists(st.integers(0, 9), max_size=60)


@given(BLOCKS)
def test_distances(blocks: list[int]) -> None:
    """By looking at what stands between each two uses."""
    expected = []
    for i, block in enumerate(blocks):
        uses = [j for j in range(i) if blocks[j] == block]
        expected.append(len(set(blocks[uses[-1] + 1 : i])) if uses else COLD)
    assert reuse_distances(blocks).tolist() == expected


@given(BLOCKS, st.integers(1, 8))
def test_lru_finds_what_is_near(blocks: list[int], slots: int) -> None:
    near = sum(0 <= distance < slots for distance in reuse_distances(blocks).tolist())
    assert near == count_hits(LRUPolicy(slots), blocks)


@given(BLOCKS, st.integers(1, 8))
def test_which_accesses_belady_finds(blocks: list[int], slots: int) -> None:
    found = ideal_hits(blocks, slots)
    assert len(found) == len(blocks)
    assert not any(found[blocks.index(block)] for block in blocks)
    assert sum(found) == round(ideal_hit_ratio(blocks, slots) * len(blocks)) or not blocks


def request(arrival_s: float, *blocks: int) -> Request:
    return Request(arrival_s, len(blocks), 1, list(blocks))


def test_conversations() -> None:
    """The second turn lacks the short block 3 of the first one; 9 is a system prompt that two conversations share."""
    turns = [request(0, 9, 1, 2, 3), request(5, 9, 11, 12), request(8, 9, 1, 2, 4, 5), request(20, 9, 1, 2, 4, 5, 6)]
    assert session_ages(turns) == [0, 0, 8, 20]


def test_parts() -> None:
    """Slots for two blocks: who keeps 1 all along finds it twice, LRU never does."""
    requests = [request(0, 1, 2), request(1, 3, 1), request(2, 2, 3, 1)]
    blocks = [block for one in requests for block in one.blocks]
    found = [False] * 5 + [True] + [False]
    ideal = ideal_hits(blocks, 2)
    parts = GapFinder(requests, ideal).parts(found)
    assert (parts["accesses"], parts["cold"], parts["hits"], parts["ideal_hits"]) == (7, 3, 1, sum(ideal))
    assert parts["hits"] - parts["ideal_hits"] == parts["won"] - parts["lost"]
    for by in parts["by"].values():
        assert sum(by["asked"]) == 4
        assert sum(by["lost"]) == parts["lost"]
        assert len(by["up_to"]) == len(by["hits"])
    assert parts["by"]["reuse_distance"]["up_to"] == [0, 1, 3]
    assert parts["by"]["reuse_distance"]["asked"] == [0, 0, 4]
    assert parts["by"]["prefix_depth"]["asked"] == [1, 2, 1]


def test_nothing_was_asked() -> None:
    assert GapFinder([], []).parts([])["accesses"] == 0
