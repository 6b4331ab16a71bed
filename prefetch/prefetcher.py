"""Predictor, budget and manager put together: at every step, ask for what the next steps will need.

What is predicted also goes to the eviction policy, if it is one that wants to know. ProMoE's division of labour
(arXiv 2410.22134, algorithms 1 and 2) lies elsewhere: its two priorities are those of ``tiers.link``, where a demand
overtakes every prefetch; its chunks, the unit of preemption, are the requests of at most 512 KiB into which
``tiers.chunks`` cuts a block, finer than a third of an expert; a prefetch that turns out to be needed is made a demand
by the engine when somebody waits for it; prefetches of the layer that were not needed are cancelled here; and the order
"cached, in flight, absent" in which a layer's experts are computed is that of the caller of the manager.
"""

from collections.abc import Iterable, Iterator, Sequence

from prefetch.base import Prediction, Predictor
from prefetch.budget import PrefetchBudget
from tiers.block import BlockKey
from tiers.eviction.base import Expected
from tiers.manager import TieredMemoryManager


class Prefetcher:
    """Drives one manager: ``used`` when blocks are taken into use, ``advance`` when a step lets go of its own.

    Who knows what follows before a step asks for its own blocks calls ``foresee`` first.
    """

    def __init__(
        self, manager: TieredMemoryManager, predictor: Predictor[BlockKey], budget: PrefetchBudget[BlockKey]
    ) -> None:
        self._manager = manager
        self._predictor = predictor
        self._budget = budget
        self._predictions: Sequence[Prediction[BlockKey]] = ()

    def used(self, keys: Iterable[BlockKey]) -> None:
        """These blocks were asked for: whatever was prefetched of them no longer counts against the budget."""
        if self._budget.outstanding:
            for key in keys:
                self._budget.settle(key)

    def advance(self, step: int) -> None:
        """``step`` is being computed, or just was: request what follows, give up what no longer will be needed."""
        self.foresee(step)
        self.request()

    def foresee(self, step: int) -> None:
        """The first half of ``advance``: give up what no longer will be needed, so that its slots and its share of the
        link are free for what ``step`` demands."""
        self._predictions = self._predictor.predict(step)
        self._manager.forecast(step, _expectations(self._predictions))
        self._give_up(self._budget.stale(self._predictions))

    def request(self) -> None:
        """The second half: ask for what the next steps will need."""
        wanted = self._budget.admit(self._predictions, self._manager.missing)
        if not wanted:
            return
        guesses = [key for key in wanted if self._budget.is_guess(key)]
        certain = [key for key in wanted if not self._budget.is_guess(key)] if guesses else wanted
        accepted = set(self._manager.prefetch(certain)).union(self._manager.prefetch(guesses, is_guess=True))
        for key in wanted:
            if key not in accepted:
                self._budget.settle(key)

    def stop(self) -> bool:
        """Give up everything that was requested and not used; False if there was nothing."""
        outstanding = list(self._budget.outstanding)
        self._give_up(outstanding)
        return bool(outstanding)

    def _give_up(self, keys: Iterable[BlockKey]) -> None:
        keys = list(keys)
        self._manager.cancel_prefetch(keys)
        for key in keys:
            self._budget.settle(key)


def _expectations(predictions: Sequence[Prediction[BlockKey]]) -> Iterator[tuple[BlockKey, Expected]]:
    return (
        (key, Expected(prediction.probability, prediction.needed_in_steps))
        for prediction in predictions
        for key in prediction.keys
    )
