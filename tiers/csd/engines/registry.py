"""Engines by the names that configurations use. A new engine is one file, one test class and one line here.

That is also how retrieval by codes (A2ATS) or by landmarks (ShadowKV) comes in: what such an engine keeps of a group is
its ``summary``, what it reads are the pages of the same sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from tiers.csd.engines.base import AttentionEngine
from tiers.csd.engines.budget import Amount
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


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Which engine answers, and how much it reads.

    ``compression``: the share of the tokens, or of the groups of them, that a sparse engine attends to, and that of the
    channels for one that uses them; ``r``, ``k`` and ``local_k``, in channels and tokens, go before it. The layers in
    ``dense_layers`` are attended to exactly, whatever the engine.
    """

    name: str = EXACT
    compression: float = 1 / 8
    r: int | None = None
    k: int | None = None
    local_k: int | None = None
    dense_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises InvalidOptionError for a name or an amount that no engine takes."""
        if self.name not in ENGINES:
            raise InvalidOptionError(f"attention engine '{self.name}' is unknown; choose one of {', '.join(ENGINES)}")
        for option in ("r", "k", "local_k"):
            if getattr(self, option) is not None and option not in _OPTIONS.get(self.name, ()):
                raise InvalidOptionError(f"attention engine '{self.name}' has no {option}; leave it out")
        self.engine()

    def engine(self, layer: int | None = None) -> AttentionEngine:
        """A new engine for ``layer``; engines keep nothing between calls, so one may serve all sequences."""
        return ENGINES[EXACT if layer in self.dense_layers else self.name](self)


def _sparf(config: EngineConfig) -> SparFEngine:
    return SparFEngine(_or(config.r, config.compression), _or(config.k, config.compression), config.local_k)


def _channel_groups(config: EngineConfig) -> ChannelGroupsEngine:
    return ChannelGroupsEngine(_or(config.r, config.compression), config.compression)


def _or(given: int | None, share: float) -> Amount:
    return float(share) if given is None else given


ENGINES: MappingProxyType[str, Callable[[EngineConfig], AttentionEngine]] = MappingProxyType(
    {
        "channel_groups": _channel_groups,
        "dense": lambda _: DenseEngine(),
        "group_bounds": lambda config: GroupBoundsEngine(float(config.compression)),
        "group_mass": lambda config: GroupMassEngine(float(config.compression)),
        "sparf": _sparf,
    }
)

_OPTIONS = MappingProxyType({"sparf": ("r", "k", "local_k"), "channel_groups": ("r",)})
