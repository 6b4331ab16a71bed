"""Engines by the names that configurations use. A new engine is one file, one test class and one line here.

That is also how retrieval by codes (A2ATS) or by landmarks (ShadowKV) comes in: what such an engine keeps of a group is
its ``summary``, what it reads are the pages of the same sequence.
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tiers.csd.engines.base import AttentionEngine
from tiers.csd.engines.channel_groups import ChannelGroupsEngine
from tiers.csd.engines.dense import DenseEngine
from tiers.csd.engines.group_bounds import GroupBoundsEngine
from tiers.csd.engines.group_mass import GroupMassEngine
from tiers.csd.engines.sparf import SparFEngine
from tiers.errors import InvalidOptionError

EXACT = "dense"
"""The engine of ``in-storage`` attention."""

SPARSE = "group_mass"
"""The engine of ``in-storage-sparse`` attention where no other is named: the smallest error for the pages it reads."""

ENGINES: MappingProxyType[str, Callable[..., AttentionEngine]] = MappingProxyType(
    {
        "channel_groups": ChannelGroupsEngine,
        "dense": DenseEngine,
        "group_bounds": GroupBoundsEngine,
        "group_mass": GroupMassEngine,
        "sparf": SparFEngine,
    }
)
"""Engines keep nothing between calls, so one may serve all layers and sequences."""


def make_engine(name: str, options: Mapping[str, Any] | None = None) -> AttentionEngine:
    """The engine of that name; ``options`` are keywords of its class.

    Raises InvalidOptionError for a name, an option or a value that it does not know.
    """
    engine = _find(name)
    known = inspect.signature(engine).parameters
    for option in options or {}:
        if option not in known:
            raise InvalidOptionError(
                f"attention engine '{name}' has no option '{option}'; it has {', '.join(known) or 'none'}"
            )
    return engine(**(options or {}))


def options_for(name: str, compression: float) -> dict[str, float]:
    """What makes that engine attend to the share ``compression``: of tokens or groups, and of channels if it uses them.

    Raises InvalidOptionError for a name that it does not know.
    """
    return {option: float(compression) for option in inspect.signature(_find(name)).parameters if option in _SHARES}


_SHARES = ("groups", "k", "r")


def _find(name: str) -> Callable[..., AttentionEngine]:
    if name not in ENGINES:
        raise InvalidOptionError(f"attention engine '{name}' is unknown; choose one of {', '.join(ENGINES)}")
    return ENGINES[name]
