import pytest

from prefetch.load_gate import blocks_to_recompute


@pytest.mark.parametrize("block_s", [0.0, 0.1, 0.5, 1.0, 1.7, 40.0])
@pytest.mark.parametrize("latency_s", [0.0, 3.0])
def test_no_other_number_is_sooner(block_s: float, latency_s: float) -> None:
    """Ten blocks of a second each to load; computing takes longer the more comes before."""

    def compute_s(n: int) -> float:
        return block_s * (n + 0.05 * n * n)

    def load_s(first: int) -> float:
        return (10 - first) + latency_s * (first < 10)

    best = blocks_to_recompute(10, compute_s, load_s)
    times = [max(compute_s(n), load_s(n)) for n in range(11)]
    assert times[best] == min(times)
    assert best == times.index(min(times))


def test_the_slower_way_is_not_taken_at_all() -> None:
    assert blocks_to_recompute(4, lambda n: 100.0 * n, lambda first: 4.0 - first) == 0
    assert blocks_to_recompute(4, lambda n: 0.001 * n, lambda first: 100.0 * (4 - first)) == 4
    assert blocks_to_recompute(0, lambda n: 0.0, lambda first: 0.0) == 0
