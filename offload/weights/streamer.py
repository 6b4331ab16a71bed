"""Weight groups that do not stay: brought to a staging slot before their module runs, in a cycle."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from offload.arenas import make_arena, slot_bytes
from offload.weights.binding import Binding
from offload.weights.host_copies import host_levels
from prefetch.budget import LinkEstimate, PrefetchBudget
from prefetch.next_layer import NextLayerPredictor
from prefetch.prefetcher import Prefetcher
from tiers.block import BlockKey
from tiers.errors import TierFullError
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
        self._schedule = [group.key for group in schedule]
        self._step_of = {key: step for step, key in enumerate(self._schedule)}
        slot_nbytes = max(group.nbytes for group in schedule)
        self.arena = make_arena(device, staging_slots, slot_nbytes)
        pool = BlockPool(staging_slots)
        # The use of weights is a loop: whatever was used last is needed last again.
        level = Level(self.arena, pool, MRUPolicy(staging_slots))
        self.host = host_levels(device, host_slots, slot_nbytes)
        self.manager = TieredMemoryManager(engine, [level, *self.host], backing=source)
        self.manager.adopt({key: source.slot_of(key) for key in self._schedule})
        predictor: NextLayerPredictor[BlockKey] = NextLayerPredictor(self._keys_of_step, len(schedule), staging_slots)
        budget: PrefetchBudget[BlockKey] = PrefetchBudget(
            LinkEstimate(bytes_per_s=1e9, step_s=1e-3), slot_nbytes, max_blocks=staging_slots
        )
        self._prefetcher = Prefetcher(self.manager, predictor, budget)
        self._held: set[WeightKey] = set()

    def acquire(self, key: WeightKey) -> int:
        """The staging slot of a group, once it is there. Raises TransferError, CorruptBlockError."""
        for left in list(self._held):  # by a forward pass that was interrupted; modules run one after the other
            self._held.remove(left)
            self.manager.release([left])
        try:
            self.manager.prepare_load([key])
        except TierFullError:
            # A pass that ended early, or that left groups out: what was read ahead for it is in the way.
            self._prefetcher.stop()
            self.manager.prepare_load([key])
        self._prefetcher.used([key])
        (slot,) = self.manager.complete_load([key])
        self._held.add(key)
        return slot

    def release(self, key: WeightKey) -> None:
        """The group has been used; its slot goes to one that comes later. Nothing happens if it was not acquired."""
        if key not in self._held:
            return
        self._held.remove(key)
        self.manager.release([key])
        self._prefetcher.advance(self._step_of[key])

    def start(self) -> None:
        """Begin reading the first groups before anybody asks."""
        self._prefetcher.advance(len(self._schedule) - 1)

    def close(self) -> None:
        self._prefetcher.stop()
        self.arena.close()
        for level in self.host:
            level.tier.close()

    def _keys_of_step(self, step: int) -> Sequence[BlockKey]:
        return (self._schedule[step],)


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
