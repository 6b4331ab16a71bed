"""Belady's cache against a search of all others."""

from collections.abc import Sequence
from functools import cache
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from simulators.belady import belady_hit_ratio, belady_misses
from simulators.expert_visits import Pass
from tiers.block import ExpertKey

VISITS = st.lists(st.sets(st.integers(0, 3), min_size=1, max_size=2), max_size=8)


def one_pass(*visits: Sequence[int], is_decode: bool = True) -> Pass:
    keys = tuple(tuple(ExpertKey(0, expert, "stored") for expert in sorted(visit)) for visit in visits)
    return Pass(slice(0, 1), 0, 1, is_decode, keys)


@given(VISITS, st.integers(2, 4))
def test_it_is_the_least_for_visits_that_need_several_at_once(visits: list[set[int]], slots: int) -> None:
    """By trying every set of experts that could be kept."""
    passes = [one_pass(sorted(visit)) for visit in visits]
    assert sum(belady_misses(passes, slots)) == fewest_misses(passes, slots)


def fewest_misses(passes: Sequence[Pass], slots: int) -> int:
    states = {frozenset[ExpertKey](): 0}
    for visit in [visit for one in passes for visit in one.visits]:
        after: dict[frozenset[ExpertKey], int] = {}
        for state, misses in states.items():
            others = sorted(state - set(visit), key=str)
            for kept in product([False, True], repeat=len(others)):
                new = frozenset([*visit, *(key for key, stays in zip(others, kept, strict=True) if stays)])
                if len(new) <= slots:
                    count = misses + len(set(visit) - state)
                    after[new] = min(count, after.get(new, count))
        states = after
    return min(states.values())


@given(st.lists(st.integers(0, 4), max_size=11), st.integers(1, 4))
def test_it_is_the_textbook_bound_for_one_at_a_time(keys: list[int], slots: int) -> None:
    @cache
    def most_hits(place: int, held: frozenset[int]) -> int:
        if place == len(keys):
            return 0
        key = keys[place]
        if key in held:
            return 1 + most_hits(place + 1, held)
        if len(held) < slots:
            return most_hits(place + 1, held | {key})
        return max(most_hits(place + 1, held - {victim} | {key}) for victim in held)

    misses = sum(belady_misses([one_pass([key]) for key in keys], slots))
    assert len(keys) - misses == most_hits(0, frozenset())


def test_all_but_the_first_use_hit_where_all_fit() -> None:
    assert belady_hit_ratio([one_pass([i]) for i in (*range(10), *range(10))], 10) == 0.5


def test_passes_that_only_warm_the_cache() -> None:
    passes = [one_pass([0], [1], is_decode=False), one_pass([0]), one_pass([2])]
    assert belady_hit_ratio(passes, 4) == 1 / 4
    assert belady_hit_ratio(passes, 4, [1, 2]) == 1 / 2
    assert belady_hit_ratio([], 4) == 1.0


def test_a_visit_of_more_than_all_slots_leaves_what_is_needed_soonest() -> None:
    passes = [one_pass([0, 1, 2]), one_pass([2]), one_pass([1])]
    assert belady_misses(passes, 2) == [3, 0, 0]
