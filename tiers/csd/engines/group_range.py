"""What the range of a group's keys says about its scores: at most this, and about that much in all."""

import math
from functools import cache

import numpy as np

from tiers.csd.engines.budget import check_amount
from tiers.csd.engines.softmax import log_sum_exp
from tiers.csd.pages import Floats, Halves
from tiers.errors import InvalidOptionError


class KeyRange:
    """Keeps the smallest and the largest key per channel (Quest, Tang et al., ICML 2024)."""

    vectors = 2

    def __call__(self, keys: Halves, values: Halves) -> Halves:
        return np.stack([keys.min(axis=1), keys.max(axis=1)], axis=1)


class GroupRange:
    """Keeps the range of the keys as ``KeyRange`` does, of each of ``ranges`` equal parts of a group; the mean of V."""

    def __init__(self, ranges: int = 1) -> None:
        """Raises InvalidOptionError for less than one part."""
        check_amount(int(ranges), "the number of ranges")
        self.ranges = int(ranges)

    @property
    def vectors(self) -> int:
        return 2 * self.ranges + 1

    def __call__(self, keys: Halves, values: Halves) -> Halves:
        """Raises InvalidOptionError where a group has no such parts."""
        num_groups, per_group, dim = keys.shape
        if per_group % self.ranges:
            raise InvalidOptionError(f"{self.ranges} ranges do not divide a group of {per_group} tokens")
        parts = keys.reshape(num_groups, self.ranges, -1, dim)
        mean = values.mean(axis=1, keepdims=True, dtype=np.float32).astype(values.dtype)
        return np.concatenate([parts.min(axis=2), parts.max(axis=2), mean], axis=1)


def score_bounds(scaled: Floats, lower: Floats, upper: Floats) -> Floats:
    """The largest score that any key within the range could have: [heads_per_kv, groups].

    ``scaled`` [heads_per_kv, head_dim], ``lower`` and ``upper`` [groups, head_dim].
    """
    above: Floats = np.maximum(scaled, 0)
    below: Floats = np.minimum(scaled, 0)
    found: Floats = above @ upper.T + below @ lower.T
    return found


def mass_terms(scaled: Floats, lower: Floats, upper: Floats, per_group: int) -> tuple[Floats, Floats]:
    """The logarithm of the sum of exp(score) over a group's tokens, in two terms [heads_per_kv, groups].

    The first is that of tokens that all lie in the middle of the range, the second what their spread adds. The keys are
    taken for normal, each channel for itself, with the deviation that makes such a range likely. Scores then are normal
    too, and the mean of ``exp`` over few draws of them grows with half the variance only up to the point at which the
    largest draw is all of it (the freezing of the random energy model, Derrida, 1981), then with the deviation.
    """
    deviations = (upper - lower) * np.float32(1 / expected_range(per_group))
    middle = np.float32(math.log(per_group)) + scaled @ ((lower + upper) * np.float32(0.5)).T
    spread = np.sqrt(np.square(scaled) @ np.square(deviations).T)
    frozen = np.float32(math.sqrt(2 * math.log(per_group)))
    added: Floats = np.where(spread < frozen, spread * spread / 2, spread * frozen - frozen * frozen / 2)
    return middle, added


def group_mass_terms(scaled: Floats, kept: Floats, per_group: int) -> tuple[Floats, Floats]:
    """``mass_terms`` of groups by what ``GroupRange`` kept of them, [groups, vectors, head_dim]."""
    num_groups, vectors, dim = kept.shape
    ranges = vectors // 2
    lower, upper = (part.reshape(-1, dim) for part in (kept[:, :ranges], kept[:, ranges : 2 * ranges]))
    middle, added = mass_terms(scaled, lower, upper, per_group // ranges)
    if ranges == 1:
        return middle, added
    by_group = (len(scaled), num_groups, ranges)
    whole_middle = log_sum_exp(middle.reshape(by_group))
    return whole_middle, log_sum_exp((middle + added).reshape(by_group)) - whole_middle


@cache
def expected_range(draws: int) -> float:
    """Of so many draws from the standard normal distribution: 1.128 of two, 3.53 of sixteen. Infinite for one draw.

    The integral over x of 1 - P(all draws above x) - P(all draws below x) (Tippett, 1925).
    """
    if draws == 1:
        return math.inf  # one key has no range, and its deviation is nothing
    step = 0.01
    below = (0.5 * (1 + math.erf(x * step / math.sqrt(2))) for x in range(-800, 801))
    return sum(1 - (1 - p) ** draws - p**draws for p in below) * step
