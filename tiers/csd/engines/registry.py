"""The attention engines that a drive offers, by name."""

from collections.abc import Callable, Mapping
from typing import Any

from tiers.csd.engines.base import AttentionEngine
from tiers.csd.naive_attention import NaiveAttention
from tiers.errors import InvalidOptionError

ENGINES: Mapping[str, Callable[..., AttentionEngine]] = {"dense": NaiveAttention}
"""A new engine is one more row; the options of ``Config`` are its keyword arguments."""


def make_engine(name: str, options: Mapping[str, Any]) -> AttentionEngine:
    """The engine of that name; raises InvalidOptionError for a name or an option that it does not know."""
    if name not in ENGINES:
        raise InvalidOptionError(f"attention engine '{name}' is unknown; choose one of {', '.join(sorted(ENGINES))}")
    try:
        return ENGINES[name](**options)
    except TypeError as error:
        raise InvalidOptionError(f"attention engine '{name}': {error}; see its options") from None
