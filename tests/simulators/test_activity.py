"""Bins of time that grow with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.activity import Activity, timeline_of_spans

STRETCHES = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), min_size=1, max_size=20)


@given(STRETCHES)
def test_no_second_is_lost(stretches: list[tuple[float, float]]) -> None:
    """However often bins were joined meanwhile."""
    activity = Activity(8)
    now = busy = 0.0
    for idle, length in stretches:
        start, now = now + idle, now + idle + length
        activity.add("link", start, now)
        busy += now - start
        activity.count("moves", now, 1)
    told = activity.as_json(now)
    lane, num = told["busy"].get("link", [0]), len(told["counts"]["moves"])
    assert num <= 8
    assert sum(told["counts"]["moves"]) == len(stretches)
    lengths = [told["bin_s"]] * (num - 1) + [now - (num - 1) * told["bin_s"]]
    assert sum(map(float.__mul__, map(float, lane), lengths)) == pytest.approx(busy, rel=0.01, abs=1e-5)


def test_bins() -> None:
    activity = Activity(4)
    activity.add("a", 0.0, 1.5)
    activity.add("a", 3.0, 3.5)
    activity.level("used", 0.5, 7)
    activity.level("used", 2.5, 9)
    activity.count("moves", 2.5, 3)
    told = activity.as_json(3.5)
    assert told == {
        "bin_s": 1.0,
        "busy": {"a": [1, 0.5, 0, 1]},  # the last bin is half as long
        "levels": {"used": [7, 7, 9, 9]},
        "counts": {"moves": [0, 0, 3, 0]},
    }
    activity.add("a", 4.0, 6.0)
    assert activity.as_json(8.0)["bin_s"] == 2.0
    assert activity.as_json(8.0)["busy"] == {"a": [0.75, 0.25, 1, 0]}
    assert activity.as_json(8.0)["levels"] == {"used": [7, 9, 9, 9]}


def test_recorded_spans_may_overlap() -> None:
    told = timeline_of_spans({"link": [(10.0, 12.0), (11.0, 13.0), (11.0, 12.0)], "compute": [(13.0, 14.0)]}, 4)
    assert told["bin_s"] == 1.0
    assert told["busy"] == {"link": [1, 1, 1, 0], "compute": [0, 0, 0, 1]}
    assert timeline_of_spans({})["busy"] == {}
