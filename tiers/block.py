"""Names of the things that move."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KVBlockKey:
    """``index``-th block of consecutive tokens of one sequence in one layer, keys and values together."""

    sequence: int
    layer: int
    index: int


@dataclass(frozen=True, slots=True)
class ExpertKey:
    """One routed expert of one layer at one precision, for example ``ExpertKey(3, 17, "int4")``."""

    layer: int
    expert: int
    precision: str


@dataclass(frozen=True, slots=True)
class WeightGroupKey:
    """Weights that are used together and therefore move together: a decoder layer, or a slice of the output head."""

    name: str


BlockKey = KVBlockKey | ExpertKey | WeightGroupKey
