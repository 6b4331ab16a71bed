"""Names of the things that move."""

from dataclasses import dataclass
from typing import NamedTuple

PLACE_SHIFT = 32
"""See PrefixBlockKey."""


class KVBlockKey(NamedTuple):
    """The ``block``-th block of consecutive tokens of one sequence in one layer, keys and values together.

    A tuple, since thousands of these are hashed for every token and a tuple's hash costs a tenth of a dataclass's. No
    key of another kind is equal to one: they have other lengths or types.
    """

    sequence: int
    layer: int
    block: int


class PrefixBlockKey(int):
    """Keys and values of one block of prompts, of all layers together, as a prefix cache holds them.

    ``block << PLACE_SHIFT | number``: a number unlike that of any other block, and how many blocks come before it in a
    prompt. One number and no tuple, since a replay looks for each of these a hundred times: blocks that were numbered
    one after the other lie side by side in a dict, and are found in half the time. No key of another kind is equal.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        """A key is there, also the first one, which is 0."""
        return True

    @property
    def sequence(self) -> int:
        """Its number: prompts that share their first blocks are no sequences of their own."""
        return self & ((1 << PLACE_SHIFT) - 1)

    @property
    def layer(self) -> int:
        """One stands for all."""
        return 0

    @property
    def block(self) -> int:
        """Where it first stood in a prompt."""
        return self >> PLACE_SHIFT

    def __repr__(self) -> str:
        return f"PrefixBlockKey({self.block} << {PLACE_SHIFT} | {self.sequence})"


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


BlockKey = KVBlockKey | PrefixBlockKey | ExpertKey | WeightGroupKey
