"""Weight groups that do not stay: brought to a staging slot before their module runs, in a cycle."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from offload.arenas import make_arena, slot_bytes
from offload.weights.binding import Binding
from offload.weights.host_copies import host_levels
from prefetch.weight_stream import WeightStream
from tiers.eviction.mru import MRUPolicy
from tiers.manager import Level, TieredMemoryManager
from tiers.pool import BlockPool
from tiers.transfer import TransferEngine
from tiers.weight_tier import WeightGroup, WeightKey, WeightTier


class WeightStreamer:
    """Staging slots, the manager over them, and the prefetch of the groups that follow.

    ``schedule`` lists the streamed groups in the order of their use in a forward pass. ``acquire`` and ``release``
    frame each use. Reading ahead goes on over the end of a pass: the first groups of the next token follow the last.
    ``host_slots`` is how many groups the host may keep copies of.
    """

    def __init__(
        self,
        engine: TransferEngine,
        source: WeightTier,
        schedule: Sequence[WeightGroup],
        staging_slots: int,
        *,
        device: str = "cpu",
        host_slots: int = 0,
    ) -> None:
        keys = [group.key for group in schedule]
        slot_nbytes = max(group.nbytes for group in schedule)
        self.arena = make_arena(device, staging_slots, slot_nbytes)
        pool = BlockPool(staging_slots)
        # The use of weights is a loop: whatever was used last is needed last again.
        level = Level(self.arena, pool, MRUPolicy(staging_slots))
        self.host = host_levels(device, host_slots, slot_nbytes)
        self.manager = TieredMemoryManager(engine, [level, *self.host], backing=source)
        self.manager.adopt({key: source.slot_of(key) for key in keys})
        self._stream = WeightStream(self.manager, keys, slot_nbytes)

    def acquire(self, key: WeightKey) -> int:
        """The staging slot of a group, once it is there. Raises TransferError, CorruptBlockError."""
        return self._stream.acquire(key)

    def release(self, key: WeightKey) -> None:
        """The group has been used; its slot goes to one that comes later. Nothing happens if it was not acquired."""
        self._stream.release(key)

    def start(self) -> None:
        """Begin reading the first groups before anybody asks."""
        self._stream.start()

    def close(self) -> None:
        self._stream.stop()
        self.arena.close()
        for level in self.host:
            level.tier.close()


class LayerHooks:
    """Acquires a layer's group before its module runs, and releases it after, come what may."""

    def __init__(self, streamer: WeightStreamer, binding: Binding, module: nn.Module) -> None:
        self._streamer = streamer
        self._binding = binding
        self._key = binding.group.key
        self._views: dict[int, list[Tensor]] = {}
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after, always_call=True)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        slot = self._streamer.acquire(self._key)
        if slot not in self._views:
            self._views[slot] = self._binding.views(slot_bytes(self._streamer.arena, slot))
        self._binding.attach(self._views[slot])

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self._binding.detach()
        self._streamer.release(self._key)
