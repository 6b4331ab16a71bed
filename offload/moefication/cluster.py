"""Which neurons make one expert: those that contribute on the same tokens."""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment

from offload.moefication.shape import MoeShape

_DIRECTIONS = 32
_ROUNDS = 6


def order_neurons(
    mean: NDArray[np.float64], product: NDArray[np.float64], shape: MoeShape, seed: int
) -> NDArray[np.int64]:
    """The neurons of a layer in their new order: those of the shared expert, then expert after expert.

    ``mean`` [neurons] and ``product`` [neurons, neurons] are E[c] and E[c c^T] of their contributions c. The shared
    expert gets the largest means. The others are clustered by the correlation of their contributions, after the idea of
    MoEfication (arXiv 2110.01786, section 3.2), into experts of equal size.
    """
    by_mean = np.argsort(-mean, kind="stable")
    shared, routed = np.sort(by_mean[: shape.shared]), np.sort(by_mean[shape.shared :])
    covariance = product[np.ix_(routed, routed)] - np.outer(mean[routed], mean[routed])
    deviation = np.sqrt(np.maximum(np.diag(covariance), np.finfo(np.float64).tiny))
    values, vectors = np.linalg.eigh(covariance / np.outer(deviation, deviation))
    # What the largest eigenvalues leave out is mostly the noise of a short calibration.
    points = vectors[:, -_DIRECTIONS:] * np.sqrt(np.maximum(values[-_DIRECTIONS:], 0))
    labels = balanced_clusters(points, shape.experts, seed)
    return np.concatenate([shared, *(routed[labels == expert] for expert in range(shape.experts))])


def balanced_clusters(points: NDArray[np.float64], clusters: int, seed: int) -> NDArray[np.int64]:
    """K-means in which every cluster gets the same number of points; the cluster of each point.

    The number of points must be a multiple of ``clusters``. Each round solves the assignment exactly, which takes time
    with the cube of the number of points.
    """
    size = len(points) // clusters
    centres, _ = kmeans2(points, clusters, minit="++", rng=seed, missing="warn")
    labels = np.zeros(len(points), np.int64)
    for _ in range(_ROUNDS):
        distances = ((points[:, None] - centres[None]) ** 2).sum(axis=2)
        _, places = linear_sum_assignment(np.repeat(distances, size, axis=1))
        previous, labels = labels, places // size
        if np.array_equal(previous, labels):
            break
        centres = np.stack([points[labels == cluster].mean(axis=0) for cluster in range(clusters)])
    return labels
