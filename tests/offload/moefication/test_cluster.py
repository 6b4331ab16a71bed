import numpy as np
from numpy.typing import NDArray

from offload.moefication.cluster import balanced_clusters, order_neurons
from offload.moefication.shape import MoeShape


def groups_of(labels: NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in labels}


def test_clouds_are_found() -> None:
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((4, 3))
    members = rng.permutation(np.repeat(np.arange(4), 6))
    points = centres[members] + 0.1 * rng.standard_normal((24, 3))
    assert groups_of(balanced_clusters(points, 4, seed=0)) == groups_of(members)


def test_one_cloud_is_shared_out_evenly_and_the_same_each_time() -> None:
    points = np.random.default_rng(1).standard_normal((40, 5))
    labels = balanced_clusters(points, 5, seed=3)
    assert np.bincount(labels).tolist() == [8] * 5
    assert np.array_equal(labels, balanced_clusters(points, 5, seed=3))


def test_neurons_that_work_together_become_one_expert() -> None:
    """Twelve neurons in three teams that are on for tokens of their own, and four that are always on."""
    rng = np.random.default_rng(2)
    team = rng.permutation(np.repeat(np.arange(4), 4))
    on = rng.integers(0, 3, 500)
    contributions = np.where(team == 3, 9.0, team == on[:, None]) + 0.01 * rng.random((500, 16))
    mean, product = contributions.mean(axis=0), contributions.T @ contributions / 500
    order = order_neurons(mean, product, MoeShape(neurons=16, shared=4, experts=3, top_k=1), seed=0)
    assert sorted(order.tolist()) == list(range(16))
    assert set(team[order[:4]]) == {3}
    assert all(len(set(team[order[i : i + 4]])) == 1 for i in (4, 8, 12))


def test_neurons_that_are_never_on_do_no_harm() -> None:
    order = order_neurons(np.zeros(16), np.zeros((16, 16)), MoeShape(16, 8, 1, 1), seed=0)
    assert sorted(order.tolist()) == list(range(16))
