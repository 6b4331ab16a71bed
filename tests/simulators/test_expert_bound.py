"""The fewest fetches over each link, and the best way to share them out."""

import pytest

from simulators.belady import belady_misses
from simulators.expert_bound import fewest_fetches, soonest
from simulators.expert_visits import keys_of, passes_of
from simulators.routing_generator import generate_routing


@pytest.mark.parametrize(
    ("fewest", "counts"),
    [
        ({"host": 0, "nvme": 0}, {"host": 8, "nvme": 2}),
        ({"host": 0, "nvme": 5}, {"host": 5, "nvme": 5}),
        ({"host": 9, "nvme": 1}, {"host": 9, "nvme": 1}),
    ],
)
def test_fetches_are_shared_out(fewest: dict[str, int], counts: dict[str, int]) -> None:
    assert soonest(10, fewest, {"host": 1.0, "nvme": 4.0}) == counts


def test_one_link_has_them_all() -> None:
    assert soonest(10, {"nvme": 3}, {"nvme": 4.0}) == {"nvme": 10}


def test_parts_need_no_more_than_all() -> None:
    trace = generate_routing([(4, 12)], 4, 8, 2, seed=2)
    passes, keys = passes_of(trace), [key for layer in keys_of(trace) for key in layer]
    counted = range(1, len(passes))
    total = sum(belady_misses(passes, 8)[1:])
    assert fewest_fetches(passes, 8, counted, set(keys)) == total
    parts = [fewest_fetches(passes, 8, counted, set(part)) for part in (keys[::3], set(keys) - set(keys[::3]))]
    assert 0 < sum(parts) <= total
