"""A manager over real tiers with a real engine, and the block contents that the tests expect of it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.tiers.kit import BLOCK_NBYTES, content, key
from tiers.block import BlockKey, KVBlockKey
from tiers.device_tier import DeviceTier
from tiers.errors import WorldError
from tiers.eviction.registry import make_policy
from tiers.fault_injection import FaultPlan, FaultyTier
from tiers.manager import Level, LookupResult, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.pinned_tier import PinnedTier
from tiers.pool import BlockPool
from tiers.tier import Tier
from tiers.transfer import TransferConfig, TransferEngine


class SeenDevice(DeviceTier):
    """A device into which tests may look as if it were memory: at a copy."""

    def view(self, slot: int) -> memoryview:
        return memoryview(self.tensor(slot).cpu().numpy().tobytes())


class House:
    """Levels by name and number of slots; the one named ``nvme`` is a file, the others are memory.

    ``device`` is the torch device of the first, which is plain memory otherwise. ``plan`` makes that file a faulty one.
    ``num_backed`` blocks, numbered from 0, lie in a read-only tier below. Block ``i`` holds ``content(i)``, unless it
    was stored with something else.
    """

    tiers: dict[str, Tier]

    def __init__(
        self,
        directory: Path,
        levels: dict[str, int],
        *,
        policy: str = "lru",
        num_backed: int = 0,
        plan: FaultPlan | None = None,
        stall_timeout_s: float = 60.0,
        device: str | None = None,
        is_cache: bool = False,
    ) -> None:
        self.engine = TransferEngine(TransferConfig(queue_depth=2, stall_timeout_s=stall_timeout_s))
        self.device: MemoryTier | SeenDevice = MemoryTier("device", levels["device"], BLOCK_NBYTES)
        if device is not None:
            self.device = SeenDevice("device", levels["device"], BLOCK_NBYTES, device)
        self.tiers = {"device": self.device}
        for name, num_slots in levels.items():
            if name == "nvme":
                nvme = NVMeTier(directory / name, num_slots, BLOCK_NBYTES)
                self.tiers[name] = nvme if plan is None else FaultyTier(nvme, plan)
            elif name != "device":
                self.tiers[name] = PinnedTier(name, num_slots, BLOCK_NBYTES, device=device or "cpu")
        self.backing = NVMeTier(directory / "weights", num_backed, BLOCK_NBYTES, "weights") if num_backed else None
        self.levels = [
            Level(tier, BlockPool(tier.num_slots), make_policy(policy, tier.num_slots)) for tier in self.tiers.values()
        ]
        self.manager = TieredMemoryManager(self.engine, self.levels, self.backing, is_cache=is_cache)
        if self.backing is not None:
            for slot in range(num_backed):
                self.backing.write(slot, memoryview(content(slot)))
            self.manager.adopt({key(slot): slot for slot in range(num_backed)})

    @property
    def faulty(self) -> FaultyTier:
        tier = self.tiers["nvme"]
        assert isinstance(tier, FaultyTier)
        return tier

    def write(self, slot: int, data: bytes) -> None:
        """Fill a slot of the device, as a model would."""
        self.device.write(slot, memoryview(data))

    def store(self, *indices: int) -> None:
        """New blocks, wholly written."""
        keys = [key(index) for index in indices]
        for index, slot in zip(indices, self.manager.prepare_store(keys), strict=True):
            self.write(slot, content(index))
        self.manager.complete_store(keys)
        self.manager.check()

    def open(self, *indices: int) -> list[bytes]:
        """Load blocks and keep them; what they hold."""
        keys = [key(index) for index in indices]
        self.manager.prepare_load(keys)
        found = [bytes(self.device.view(slot)) for slot in self.manager.complete_load(keys)]
        self.manager.check()
        return found

    def release(self, *indices: int) -> None:
        self.manager.release([key(index) for index in indices])

    def load(self, *indices: int) -> None:
        """Use blocks once, and find what was stored."""
        assert self.open(*indices) == [content(index) for index in indices]
        self.release(*indices)

    def numbers_of(self, keys: Iterable[BlockKey]) -> list[int]:
        """Of blocks, for example those that are held."""
        return [one.block for one in keys if isinstance(one, KVBlockKey)]

    def where(self, index: int) -> str:
        """The levels that hold a block, for example ``"device nvme"``."""
        return " ".join(level.tier.name for level in self.levels if key(index) in level.slots)

    def plan_of(self, indices: Iterable[int]) -> list[str]:
        return [self.where(index) for index in indices]

    def settle(self, *indices: int) -> None:
        """Wait until nothing moves for these blocks any more; what failed is for the manager to find out."""
        keys = {key(index) for index in indices}
        arrivals = self.manager._placement.arrivals
        transfers = [arrivals[one] for one in keys if one in arrivals]
        landings = [landing for level in self.levels for landing in level.landings]
        transfers += [landing.transfer for landing in landings if not keys.isdisjoint(landing.slots)]
        for transfer in transfers:
            try:
                self.engine.wait(transfer)  # type: ignore[arg-type]  # it comes from this very engine
            except WorldError:
                continue

    def free_slots(self) -> list[int]:
        return [level.pool.num_free for level in self.levels]

    def books(self) -> Sequence[object]:
        """All that a call which fails must leave as it was."""
        placement = self.manager._placement
        copies = [dict(level.slots) for level in self.levels]
        uses = (dict(placement.pinned), dict(placement.shares), set(placement.claims), set(placement.opened))
        stats = self.manager.stats
        return copies, uses, self.free_slots(), (stats.hits, stats.pending_hits, stats.misses)

    def close(self) -> None:
        for tier in self.tiers.values():
            if isinstance(tier, FaultyTier):
                tier.release()
        self.engine.close()
        for tier in [*self.tiers.values(), *([self.backing] if self.backing else [])]:
            tier.close()


Build = Callable[..., House]


def lookup(house: House, *indices: int) -> list[LookupResult]:
    """Where blocks stand."""
    return [house.manager.lookup(key(index)) for index in indices]
