"""Who runs side by side with whom."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefetch.request_batches import arrival_batches, likely_paths, path_batches, queue_batches
from prefetch.token_scheduler import active_experts

PATHS = st.integers(1, 14).flatmap(lambda count: arrays(np.bool_, (count, 9)))


def needed(paths: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]", batches: list[list[int]]) -> int:
    return sum(active_experts(paths[members]) for members in batches)


@given(PATHS, st.integers(1, 5))
def test_every_request_is_in_one_batch_and_nobody_needs_more(
    paths: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]", batch: int
) -> None:
    arrived, grouped = arrival_batches(len(paths), batch), path_batches(paths, batch)
    queued = queue_batches(paths.astype(np.float64), batch)
    for batches in (arrived, grouped, queued):
        assert sorted(i for members in batches for i in members) == list(range(len(paths)))
        assert all(0 < len(members) <= batch for members in batches)
    assert len(grouped) == len(arrived)
    assert needed(paths, grouped) <= needed(paths, arrived)


def test_topics_come_together_from_far_apart() -> None:
    """Requests of two topics in turn. Queues know one expert of a request only, which helps less than its path."""
    random = np.random.default_rng(2)
    topics = random.random((2, 120)) < 0.3
    of_request = np.arange(16) % 2
    paths = topics[of_request] ^ (random.random((16, 120)) < 0.02)
    grouped, queued = path_batches(paths, 4), queue_batches(paths.astype(np.float64), 4)
    assert all(len({int(of_request[i]) for i in members}) == 1 for members in grouped)
    assert needed(paths, grouped) <= needed(paths, queued) < needed(paths, arrival_batches(16, 4))


def test_likely_paths_are_the_best_of_each_layer() -> None:
    shares = np.array([[[0.1, 0.5, 0.4], [0.3, 0.3, 0.9]]])
    assert likely_paths(shares, 2).tolist() == [[False, True, True, True, False, True]]
