"""How much of what is predicted is worth asking for."""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Generic

from prefetch.base import K, Prediction
from tiers.errors import InvalidOptionError

_ALL_BUT_CERTAIN = 0.9


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """What a link delivers (``bytes_per_s``) and how long one step of the schedule takes (``step_s``)."""

    bytes_per_s: float
    step_s: float

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0:
            raise InvalidOptionError(f"a link of {self.bytes_per_s} bytes/s delivers nothing; measure it again")
        if not self.step_s >= 0:
            raise InvalidOptionError(f"a step cannot last {self.step_s} s; measure it again")

    @property
    def bytes_per_step(self) -> float:
        """Bytes that arrive while one step is computed."""
        return self.bytes_per_s * self.step_s


class PrefetchBudget(Generic[K]):
    """Turns predictions into requests: each key once, none without room for it, no guess that would come too late.

    A request is outstanding from ``admit`` to ``settle``. ``max_blocks`` bounds the outstanding ones: it is the room
    that blocks may take before anybody used them. ``link`` may be replaced whenever a better estimate is known; it is
    None where only what is certain is predicted, and then no guess is asked for.

    What is certain is asked for even if it comes late, since it is needed all the same and every byte that is under way
    shortens the wait. What is not certain takes bandwidth from better guesses, so it must fit in what the link delivers
    before the need, behind everything outstanding, and it must be at least ``least_probability``: a wrong guess costs
    the same bytes as a right one saves.
    """

    def __init__(
        self, link: LinkEstimate | None, block_nbytes: int, max_blocks: int, *, least_probability: float = 0.0
    ) -> None:
        if block_nbytes < 1:
            raise InvalidOptionError(f"a block of {block_nbytes} bytes cannot be prefetched; it needs at least 1")
        if max_blocks < 0:
            raise InvalidOptionError(f"room for {max_blocks} prefetched blocks makes no sense; give 0 or more")
        self.link = link
        self._block_nbytes = block_nbytes
        self._max_blocks = max_blocks
        self._least_probability = least_probability
        # A dict for its order: what is stale is reported, and cancelled, in the order in which it was admitted.
        # The value is the probability.
        self._outstanding: dict[K, float] = {}

    @property
    def outstanding(self) -> AbstractSet[K]:
        """The keys asked for and not settled, a live view in the order of their admission."""
        return self._outstanding.keys()

    def admit(
        self, predictions: Iterable[Prediction[K]], missing: Callable[[Sequence[K]], Iterable[K]] = lambda keys: keys
    ) -> list[K]:
        """The keys to request now, in this order: by need, then by probability. They are outstanding from here on.

        ``missing`` says which keys of a group are not in fast memory: the budget does not know. It is asked about no
        more groups than there is room for. A certain group of at most half of all room is admitted whole or not yet:
        blocks that come together lie side by side.
        """
        admitted: list[K] = []
        arriving_per_step = self.link.bytes_per_step / self._block_nbytes if self.link else 0.0
        for prediction in sorted(predictions, key=_by_need):
            room = self._max_blocks - len(self._outstanding)
            if room <= 0:
                break
            is_certain = prediction.probability >= 1.0
            if not is_certain:
                arriving = int(arriving_per_step * prediction.needed_in_steps)
                room = min(room, arriving - len(self._outstanding))
                if room <= 0 or prediction.probability < self._least_probability:
                    continue
            # They may be outstanding, and one key may be predicted for several steps.
            wanted = [key for key in missing(prediction.keys) if key not in self._outstanding]
            if is_certain and room < len(wanted) <= self._max_blocks // 2:
                break
            for key in wanted[:room]:
                if key not in self._outstanding:
                    self._outstanding[key] = prediction.probability
                    admitted.append(key)
        return admitted

    def is_guess(self, key: K) -> bool:
        """Whether an outstanding key is so likely not to be needed that it should give way to anything else."""
        return self._outstanding[key] < _ALL_BUT_CERTAIN

    def settle(self, key: K) -> None:
        """A request is over: its block was used, or it was cancelled. Nothing happens if none is outstanding."""
        self._outstanding.pop(key, None)

    def stale(self, predictions: Iterable[Prediction[K]]) -> list[K]:
        """Outstanding keys that no prediction names any more. Cancel them, then settle them."""
        if not self._outstanding:
            return []
        named = set[K]().union(*(prediction.keys for prediction in predictions))
        return [key for key in self._outstanding if key not in named]


def _by_need(prediction: Prediction[K]) -> tuple[int, float]:
    return prediction.needed_in_steps, -prediction.probability
