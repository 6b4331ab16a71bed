"""Names of the things that move."""

from dataclasses import dataclass
from typing import NamedTuple


class KVBlockKey(NamedTuple):
    """The ``block``-th block of consecutive tokens of one sequence in one layer, keys and values together.

    A tuple, since thousands of these are hashed for every token and a tuple's hash costs a tenth of a dataclass's. No
    key of another kind is equal to one: they have other lengths or types.
    """

    sequence: int
    layer: int
    block: int


class ExpertKey(NamedTuple):
    """One routed expert of one layer at one precision, for example ``ExpertKey(3, 17, "int4")``. A tuple, as above."""

    layer: int
    expert: int
    precision: str

    @property
    def name(self) -> str:
        """As a packed store spells it."""
        return f"layers.{self.layer}.experts.{self.expert}"


@dataclass(frozen=True, slots=True)
class WeightGroupKey:
    """Weights that are used together and therefore move together: a decoder layer, or a slice of the output head."""

    name: str


BlockKey = KVBlockKey | ExpertKey | WeightGroupKey
