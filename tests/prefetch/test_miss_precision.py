import pytest

from prefetch.miss_precision import MissPrecision, miss_precisions
from tiers.errors import InvalidOptionError

HIGH, LOW, SKIP = MissPrecision.HIGH, MissPrecision.LOW, MissPrecision.SKIP


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.5, 0.5], [HIGH, HIGH]),
        ([0.7, 0.3], [HIGH, LOW]),
        ([0.3, 0.7], [LOW, HIGH]),
        ([0.05, 0.95], [SKIP, HIGH]),
        ([7.0, 2.5, 0.5], [HIGH, LOW, SKIP]),
        ([1.0], [HIGH]),
        ([0.0, 0.0], [HIGH, HIGH]),
        ([], []),
    ],
)
def test_the_less_an_expert_adds_the_less_exact_it_is(weights: list[float], expected: list[MissPrecision]) -> None:
    assert miss_precisions(weights, may_skip=True) == expected
    assert miss_precisions(weights) == [LOW if each is SKIP else each for each in expected]


def test_thresholds_that_do_not_rise() -> None:
    with pytest.raises(InvalidOptionError, match=r"0\.9 and 0\.6"):
        miss_precisions([1.0], 0.9, 0.6)
    with pytest.raises(InvalidOptionError, match="negative"):
        miss_precisions([-1.0])
