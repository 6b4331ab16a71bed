"""What every kind of scenario has for sweeps and searches, and the kinds that there are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from offload.simulation.cell import Cell, RunCell
from offload.simulation.expert_cells import ExpertCells
from offload.simulation.expert_scenario import is_expert_scenario
from offload.simulation.kv_cells import KVCells
from simulators.model_costs import ModelShape
from simulators.profile import HardwareProfile
from tiers.block import BlockKey


class Setting(Protocol):
    """What the cells of one setting need besides the workload. Reads no file, so that other machines can run it."""

    @property
    def shape(self) -> ModelShape:
        """Of the model."""
        ...

    @property
    def profile(self) -> HardwareProfile:
        """Of the machine."""
        ...

    @property
    def tiers(self) -> Mapping[str, int]:
        """Bytes by level."""
        ...

    def experiment(self, workload: Any) -> RunCell:
        """What runs its cells on what ``CellMaker.workload`` gives. Raises UsageError for what cannot run."""
        ...

    def example(self) -> Mapping[str, Any]:
        """The row of a workload of next to nothing, which has the same figures as any other."""
        ...

    def workload_figures(self, workload: Any) -> Mapping[str, float]:
        """What tells a workload from others of the same kind of scenario."""
        ...

    def run_settings(self) -> Mapping[str, Any]:
        """What ``offload run --config`` takes of it; sizes are bytes."""
        ...


class CellMaker(Protocol):
    """Cells of one scenario file. What they depend on is read once for all of them."""

    @property
    def path(self) -> Path:
        """Of the file."""
        ...

    @property
    def swept(self) -> Sequence[str]:
        """Keys that may hold a list, as ``axes.SWEPT``."""
        ...

    @property
    def deciders(self) -> Sequence[str]:
        """Keys of the names that decide in a cell: ``policy`` and, of experts, ``predictor``."""
        ...

    @property
    def keys(self) -> type[BlockKey]:
        """The kind of keys that policies see in it."""
        ...

    def cells(self, settings: Mapping[str, Any], *, with_bounds: bool = False) -> list[Cell]:
        """One for each policy of ``settings``, and the rows that none can beat; raises as ``setting`` does."""
        ...

    def in_bytes(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """``settings``, which may have lists and ranges, with bytes for sizes that are shares of something else.

        InvalidOptionError where they are of more than one thing.
        """
        ...

    def setting(self, settings: Mapping[str, Any]) -> Setting:
        """Of ``settings`` without lists. Raises InvalidOptionError with the file and the key, or TraceError."""
        ...

    def workload(self, settings: Mapping[str, Any]) -> Any:
        """What is replayed: the same object for all settings with the same one."""
        ...

    def workload_print(self, settings: Mapping[str, Any]) -> list[str]:
        """What tells the workload of ``settings`` from others: what they say of it, and a digest of a recorded one."""
        ...


def cell_maker(path: Path, settings: Mapping[str, Any]) -> CellMaker:
    """That of the file at ``path``, which holds ``settings``, and may hold lists."""
    return ExpertCells(path) if is_expert_scenario(settings) else KVCells(path)
