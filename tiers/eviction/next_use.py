"""Read-ME's eviction: Belady's rule as far as the future is known."""

import numpy as np

from tiers.eviction.base import K
from tiers.eviction.forecasting import ForecastingPolicy
from tiers.eviction.scored import Floats

_UNKNOWN = 1e18


class NextUsePolicy(ForecastingPolicy[K]):
    """Evicts what is needed latest (arXiv 2410.19123), known from forecasts of any length.

    They come from tokens whose gates were asked in advance: those of the pass, and those that wait in the queue. What
    no forecast names is needed later than all that is named, the least recently used of it goes first. Probabilities
    are not looked at: who is not sure should not name a key. With a whole future known it is Belady's policy; without
    forecasts it is LRU.
    """

    def _worth(self) -> Floats:
        return -np.where(self._probability > 0.0, self._steps, _UNKNOWN)
