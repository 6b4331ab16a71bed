"""A task inside the drive: its configuration, and the engines that attend for it."""

from dataclasses import dataclass

from tiers.csd.commands import Config
from tiers.csd.engines.base import AttentionEngine, ReadsChannelPages
from tiers.csd.engines.registry import EXACT, make_engine
from tiers.csd.geometry import FlashGeometry
from tiers.csd.pages import KVShape


@dataclass(frozen=True, slots=True)
class Task:
    """``dense`` attends in the layers that are read in full, ``engine`` in the others."""

    config: Config
    shape: KVShape
    engine: AttentionEngine
    dense: AttentionEngine

    @classmethod
    def of(cls, config: Config, geometry: FlashGeometry) -> "Task":
        """Raises InvalidOptionError for what makes no sense."""
        shape = config.shape(geometry)
        return cls(config, shape, make_engine(config.engine, config.engine_options), make_engine(EXACT))

    def engine_of(self, layer: int) -> AttentionEngine:
        """The one that attends in that layer."""
        return self.dense if layer in self.config.dense_layers else self.engine

    def learns_order(self, layer: int) -> bool:
        """Whether the channel index of that layer waits for an order of its channels."""
        engine = self.engine_of(layer)
        return self.config.key_copies == 2 and isinstance(engine, ReadsChannelPages) and engine.whole_pages
