"""What is brought before the first token: weights that stay on the device, copies that stay in the host."""

from collections.abc import Callable, Sequence

from offload.arenas import Arena
from offload.experts.store import ExpertStore
from offload.plan import Plan
from offload.weights.host_copies import fill_host
from tiers.chunks import Move
from tiers.link import Priority
from tiers.manager import TieredMemoryManager
from tiers.memory_tier import map_memory
from tiers.tier import SupportsChecksum
from tiers.transfer import TransferEngine
from tiers.weight_tier import WeightGroup, WeightTier

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes in all."""


class InitialLoad:
    """Collects what is to be brought, so that progress can be told of all of it, then brings it."""

    def __init__(self, engine: TransferEngine, source: WeightTier) -> None:
        self._engine = engine
        self._source = source
        self._total_nbytes = 0
        self._steps: list[Callable[[Callable[[int], None]], None]] = []

    def stay(self, arena: Arena, groups: Sequence[WeightGroup]) -> None:
        """``groups[i]`` in slot i of an arena of the device."""

        def bring(arrived: Callable[[int], None]) -> None:
            transfers = [
                self._engine.submit(self._source, arena, [Move(self._source.slot_of(group.key), slot)], Priority.DEMAND)
                for slot, group in enumerate(groups)
            ]
            for transfer, group in zip(transfers, groups, strict=True):
                self._engine.wait(transfer)
                arrived(group.nbytes)

        self._add(sum(group.nbytes for group in groups), bring)

    def copy_to_host(self, manager: TieredMemoryManager, groups: Sequence[WeightGroup]) -> None:
        """Copies on the level below the device's."""
        nbytes = sum(group.nbytes for group in groups)
        self._add(nbytes, lambda arrived: fill_host(self._engine, manager, self._source, groups, arrived))

    def keep(self, experts: ExpertStore) -> None:
        """All experts, which the device has slots for."""
        self._add(experts.pool.num_slots * experts.slot_nbytes, experts.bring_all)

    def run(self, progress: Progress | None) -> None:
        """Raises TransferError, CorruptBlockError."""
        done = 0

        def arrived(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress:
                progress(done, self._total_nbytes)

        for step in self._steps:
            step(arrived)

    def _add(self, nbytes: int, step: Callable[[Callable[[int], None]], None]) -> None:
        self._total_nbytes += nbytes
        self._steps.append(step)


def evenly(groups: Sequence[WeightGroup], count: int) -> list[WeightGroup]:
    """So many of them, spread over all: of experts as many in each layer."""
    return [groups[i * len(groups) // count] for i in range(count)]


def verify_rows(source: WeightTier, plan: Plan) -> None:
    """Check once the slices of which only rows will be read: the checksum of a slice says nothing of a row.

    The memory that it takes is that of a staging slot, in which there is nothing yet. Raises CorruptBlockError.
    """
    if not isinstance(source, SupportsChecksum):
        return
    for group in source.groups:
        if group.kind == "embedding" and group.key.name in plan.streamed:
            source.read(source.slot_of(group.key), memoryview(map_memory("device", group.nbytes)))
