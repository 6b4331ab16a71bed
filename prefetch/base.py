"""The seam of prediction: what will be needed, how surely and how soon."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Prediction(Generic[K]):
    """Each of ``keys`` will be needed with this ``probability`` (1 is certain) when so many more steps have begun.

    Keys come in groups, since a step may need thousands of blocks, all as surely and as soon as each other. The step
    that is being computed now is 0 steps away, the next one 1. Write ``Prediction(...)`` and leave the type to
    inference: a frozen slotted dataclass cannot be called as ``Prediction[K](...)`` on every Python that we support.
    """

    keys: Sequence[K]
    probability: float
    needed_in_steps: int


class Predictor(ABC, Generic[K]):
    """Says what the steps ahead will need. Plain computation: reads no clock, moves nothing, starts no thread."""

    @abstractmethod
    def predict(self, step: int) -> list[Prediction[K]]:
        """What will be needed after ``step``, the index into the cyclic schedule of what is being computed now.

        Naming a key more than once, or one that is in fast memory already, is allowed.
        """
