"""The softmax of parts, without overflow and with an answer for no score at all."""

import numpy as np

from tiers.csd.pages import Floats


def log_sum_exp(scores: Floats) -> Floats:
    """Over the last axis; -inf where there is nothing or only -inf."""
    if not scores.shape[-1]:
        return np.full(scores.shape[:-1], -np.inf, np.float32)
    most = _finite(scores.max(axis=-1, keepdims=True))
    with np.errstate(divide="ignore"):
        total: Floats = np.log(np.exp(scores - most).sum(axis=-1)) + most[..., 0]
    return total


def weights(scores: Floats, total: Floats) -> Floats:
    """exp(scores - total) with ``total`` [...] over the last axis of ``scores``: their share of the softmax."""
    found: Floats = np.exp(scores - _finite(total)[..., None])
    return found


def softmax(scores: Floats) -> Floats:
    """Over the last axis; zeros where all scores are -inf."""
    return weights(scores, log_sum_exp(scores))


def _finite(values: Floats) -> Floats:
    """-inf minus -inf would be no number."""
    found: Floats = np.where(values == -np.inf, np.float32(0), values)
    return found
