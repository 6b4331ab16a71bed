import math
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefetch.base import Prediction
from prefetch.budget import LinkEstimate, PrefetchBudget
from tiers.errors import InvalidOptionError

BLOCK = 1000
TWO_BLOCKS_PER_STEP = LinkEstimate(bytes_per_s=4 * BLOCK, step_s=0.5)


def make(max_blocks: int = 100) -> PrefetchBudget[str]:
    return PrefetchBudget(TWO_BLOCKS_PER_STEP, BLOCK, max_blocks)


def certain(keys: Iterable[str], steps: int) -> list[Prediction[str]]:
    return [Prediction(tuple(keys), 1.0, steps)]


def guess(key: str, probability: float, steps: int) -> Prediction[str]:
    return Prediction((key,), probability, steps)


def test_one_token() -> None:
    budget = make(max_blocks=4)
    assert budget.admit(certain("AB", 1) + certain("CD", 2)) == ["A", "B", "C", "D"]
    # The next layer begins and uses A and B. C and D are under way; there is room for two of the three that come next.
    budget.settle("A")
    budget.settle("B")
    assert budget.admit(certain("CD", 1) + certain("EFG", 2)) == ["E", "F"]
    assert list(budget.outstanding) == ["C", "D", "E", "F"]
    # The sequence ends: nobody needs what is still on its way.
    assert budget.stale([]) == ["C", "D", "E", "F"]
    for key in budget.stale([]):
        budget.settle(key)
    assert not budget.outstanding


def test_orders_by_need_and_then_by_probability() -> None:
    predictions = [guess("late", 1.0, 3), guess("likely", 0.9, 2), guess("unlikely", 0.2, 2), guess("sure", 1.0, 2)]
    assert make().admit(predictions) == ["sure", "likely", "unlikely", "late"]


def test_a_guess_must_arrive_in_time() -> None:
    """Two blocks arrive per step: the third guess for the next step is too late, the third for the one after is not."""
    predictions = [guess("A", 0.9, 1), guess("B", 0.8, 1), guess("C", 0.7, 1), guess("D", 0.6, 2), guess("E", 0.5, 2)]
    assert make().admit(predictions) == ["A", "B", "D", "E"]


def test_a_guess_queues_behind_what_is_outstanding() -> None:
    budget = make()
    budget.admit(certain("ABC", 1))
    assert budget.admit([guess("D", 0.9, 1), guess("E", 0.9, 2), guess("F", 0.8, 2)]) == ["E"]
    budget.settle("A")
    assert budget.admit([guess("F", 0.8, 2)]) == ["F"]


def test_what_is_certain_is_asked_for_even_if_late() -> None:
    assert make().admit(certain("ABCDEF", 1)) == list("ABCDEF")


def test_without_an_estimate_only_what_is_certain_is_asked_for() -> None:
    budget: PrefetchBudget[str] = PrefetchBudget(None, BLOCK, 3)
    assert budget.admit([guess("A", 0.99, 9), *certain("BCDE", 1)]) == ["B", "C", "D"]


def test_a_better_estimate_takes_effect_at_once() -> None:
    budget = make()
    budget.link = LinkEstimate(bytes_per_s=6 * BLOCK, step_s=0.5)
    assert budget.admit([guess(key, 0.5, 1) for key in "ABCD"]) == ["A", "B", "C"]


def test_a_guess_that_is_more_often_wrong_than_it_is_worth() -> None:
    budget: PrefetchBudget[str] = PrefetchBudget(TWO_BLOCKS_PER_STEP, BLOCK, 10, least_probability=0.8)
    assert budget.admit([guess("A", 0.79, 1), guess("B", 0.8, 1), guess("C", 1.0, 2)]) == ["B", "C"]


def test_asks_once_for_a_key_that_is_predicted_twice() -> None:
    budget = make()
    assert budget.admit([guess("A", 1.0, 2), guess("A", 0.5, 1), guess("B", 1.0, 1)]) == ["B", "A"]
    assert budget.admit(certain("AB", 1)) == []


def test_a_guess_that_is_too_late_now_may_be_certain_later() -> None:
    budget = make()
    budget.admit(certain("AB", 1))
    assert budget.admit([guess("C", 0.5, 1), guess("C", 1.0, 4)]) == ["C"]


def test_asks_only_for_what_is_missing_and_no_further_than_there_is_room() -> None:
    asked: list[str] = []

    def missing(keys: Sequence[str]) -> list[str]:
        asked.extend(keys)
        return [key for key in keys if key != "B"]

    predictions = certain("AB", 1) + certain("CD", 2) + certain("EF", 3)
    assert make(max_blocks=2).admit(predictions, missing) == ["A", "C"]
    assert asked == ["A", "B", "C", "D"]


def test_without_room_nothing_is_asked_for() -> None:
    assert make(max_blocks=0).admit(certain("AB", 1)) == []


def test_only_what_nobody_names_is_stale() -> None:
    budget = make()
    budget.admit(certain("ABC", 1))
    assert budget.stale([guess("B", 0.1, 7), guess("Z", 1.0, 1)]) == ["A", "C"]
    # Asking changes nothing: the requests are over when the caller says so.
    assert list(budget.outstanding) == ["A", "B", "C"]


def test_settling_what_was_never_asked_for_does_nothing() -> None:
    """A caller settles whatever it uses, prefetched or not."""
    budget = make()
    budget.admit(certain("A", 1))
    budget.settle("B")
    assert list(budget.outstanding) == ["A"]


@pytest.mark.parametrize(("bytes_per_s", "step_s"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, -1.0)])
def test_refuses_a_link_that_cannot_be(bytes_per_s: float, step_s: float) -> None:
    with pytest.raises(InvalidOptionError, match="measure it again"):
        LinkEstimate(bytes_per_s, step_s)


@pytest.mark.parametrize(("block_nbytes", "max_blocks", "value"), [(0, 1, "0 bytes"), (1, -1, "-1 prefetched")])
def test_refuses_sizes_that_make_no_sense(block_nbytes: int, max_blocks: int, value: str) -> None:
    with pytest.raises(InvalidOptionError, match=value):
        PrefetchBudget(TWO_BLOCKS_PER_STEP, block_nbytes, max_blocks)


KEYS = st.lists(st.integers(0, 12), max_size=4)
PREDICTIONS = st.lists(
    st.builds(Prediction, KEYS, st.sampled_from([0.0, 0.3, 0.9, 1.0]), st.integers(0, 6)), max_size=10
)


@given(st.lists(st.tuples(PREDICTIONS, st.sets(st.integers(0, 12)))), st.integers(0, 8))
def test_never_promises_more_than_room_and_link_allow(
    steps: list[tuple[list[Prediction[int]], set[int]]], max_blocks: int
) -> None:
    """After any history: no key twice, no more than the room, and each admitted guess in time behind all before it."""
    budget: PrefetchBudget[int] = PrefetchBudget(TWO_BLOCKS_PER_STEP, BLOCK, max_blocks)
    expected: set[int] = set()
    for predictions, used in steps:
        ahead = len(expected)
        admitted = budget.admit(predictions)
        assert len(admitted) == len(set(admitted))
        assert expected.isdisjoint(admitted)
        for place, key in enumerate(admitted, start=ahead + 1):
            assert any(p.probability == 1.0 or place <= 2 * p.needed_in_steps for p in predictions if key in p.keys), (
                "a guess that comes too late"
            )
        expected |= set(admitted)
        assert len(expected) <= max_blocks
        assert set(budget.stale(predictions)) == expected.difference(*(p.keys for p in predictions))
        for key in used:
            budget.settle(key)
        expected -= used
        assert budget.outstanding == expected
