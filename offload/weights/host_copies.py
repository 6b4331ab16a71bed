"""Copies of weights in the host's memory: a device that has a memory of its own gets them from there sooner."""

from collections.abc import Callable, Sequence

from offload.arenas import make_host_arena
from tiers.chunks import Move
from tiers.eviction.lru import LRUPolicy
from tiers.link import Priority
from tiers.manager import Level, TieredMemoryManager
from tiers.pool import BlockPool
from tiers.transfer import TransferEngine
from tiers.weight_tier import WeightGroup, WeightTier


def host_levels(device: str, num_slots: int, slot_nbytes: int) -> list[Level]:
    """The level below the device's, if there is to be one. Raises TierError if there is not so much memory."""
    if not num_slots:
        return []
    return [Level(make_host_arena(device, num_slots, slot_nbytes), BlockPool(num_slots), LRUPolicy(num_slots))]


def fill_host(
    engine: TransferEngine,
    manager: TieredMemoryManager,
    source: WeightTier,
    groups: Sequence[WeightGroup],
    on_arrival: Callable[[int], None],
) -> None:
    """Read groups of ``source`` into the level below the device's; ``on_arrival`` is told the bytes of each.

    Raises TransferError, CorruptBlockError.
    """
    if not groups:
        return
    host = manager.levels[1].tier
    slots = manager.stage([group.key for group in groups])
    moves = [Move(source.slot_of(group.key), slot) for group, slot in zip(groups, slots, strict=True)]
    transfers = [engine.submit(source, host, [move], Priority.DEMAND) for move in moves]
    for group, transfer in zip(groups, transfers, strict=True):
        engine.wait(transfer)
        on_arrival(group.nbytes)
