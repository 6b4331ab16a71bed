"""The managers of a generation over modelled tiers: set up as the runtime sets up its own, with the same policies."""

from collections import Counter
from collections.abc import Mapping, Sequence

from prefetch.block_store import BlockStore
from prefetch.block_table import TokenTable
from prefetch.expert_predictor import ExpertPredictor
from prefetch.expert_waves import ExpertWaves
from prefetch.weight_stream import WeightStream
from simulators.generation_shape import DriveCosts, ModelShape, PlacementShape
from simulators.modelled_mover import EmptyTier
from simulators.modelled_queue import QueuedTransfer
from simulators.queued_mover import EmptyFile, QueuedMover
from simulators.virtual_mover import VirtualPace
from tiers.block import BlockKey
from tiers.chunks import Move
from tiers.eviction.mru import MRUPolicy
from tiers.eviction.registry import make_policy
from tiers.link import Priority
from tiers.manager import Level, TieredMemoryManager
from tiers.pool import BlockPool
from tiers.tier import Tier


def make_stream(mover: QueuedMover, model: ModelShape, placement: PlacementShape) -> WeightStream | None:
    """The staging slots for the weights that do not stay; None where all do. As ``offload.weights.streamer``."""
    if not placement.streamed:
        return None
    groups = {group.key: group for group in (*(layer.group for layer in model.layers), *model.head)}
    slots = max(1, placement.staging_slots)
    arena = EmptyTier("device", slots, placement.slot_nbytes)
    extents = [groups[key].extents for key in placement.streamed]
    source = EmptyFile("nvme", len(extents), placement.slot_nbytes, extents)
    manager = TieredMemoryManager(mover, [Level(arena, BlockPool(slots), MRUPolicy(slots))], source)
    manager.adopt({key: slot for slot, key in enumerate(placement.streamed)})
    return WeightStream(manager, placement.streamed, placement.slot_nbytes)


def make_experts(
    mover: QueuedMover,
    model: ModelShape,
    placement: PlacementShape,
    policy: str,
    predictor: ExpertPredictor | None,
) -> ExpertWaves | None:
    """The cache of experts; None of a dense model. As ``offload.experts.store`` and ``offload.loader``."""
    if not model.experts:
        return None
    slots = placement.expert_slots
    everything_stays = slots >= len(model.experts)
    arena = EmptyTier("device", slots, placement.expert_slot_nbytes)
    source = EmptyFile("nvme", len(model.experts), placement.expert_slot_nbytes, [e.extents for e in model.experts])
    # Where nothing ever has to leave, the policy that costs least is best.
    level = Level(arena, BlockPool(slots), make_policy("lru" if everything_stays else policy, slots))
    manager = TieredMemoryManager(mover, [level], source)
    manager.adopt({expert.key: slot for slot, expert in enumerate(model.experts)})
    waves = ExpertWaves(
        manager, placement.expert_slot_nbytes, VirtualPace(mover, lambda: [mover.links["nvme->device"].use])
    )
    if everything_stays:
        keys = [expert.key for expert in model.experts]
        manager.prepare_load(keys)
        manager.complete_load(keys)
        manager.release(keys)
        manager.stats.misses = 0
    elif predictor is not None:
        waves.predict_with(predictor)
    return waves


class KVRows:
    """The tables of all rows in all layers. As ``offload.kv.cache``, without its conversations and beams."""

    def __init__(self, mover: QueuedMover, model: ModelShape, placement: PlacementShape, batch: int) -> None:
        nbytes = placement.kv_block_nbytes
        tiers: list[EmptyTier] = [EmptyTier("device", max(1, placement.kv_device_blocks), nbytes)]
        if placement.kv_host_blocks:
            tiers.append(EmptyTier("host", placement.kv_host_blocks, nbytes))
        if placement.kv_nvme_blocks:
            tiers.append(EmptyFile("nvme", placement.kv_nvme_blocks, nbytes))
        policy = placement.kv_policy
        levels = [Level(tier, BlockPool(tier.num_slots), make_policy(policy, tier.num_slots)) for tier in tiers]
        self._mover = _CountingMover(mover)
        self.manager = TieredMemoryManager(self._mover, levels)
        self.store = BlockStore(self.manager, placement.kv_block_tokens, num_layers=len(model.layers))
        self.prefetcher = self.store.make_prefetcher(self._full_blocks)
        slots, total = self.store.num_slots, len(model.layers) * batch
        self.tables: list[list[TokenTable[BlockStore]]] = [[] for _ in model.layers]
        for place in range(total):
            if self.store.is_still:
                table = TokenTable(self.store, place // batch, home=place * slots // total)
            else:
                table = TokenTable(self.store, place // batch, open_home=max(0, slots - 1 - place))
            self.tables[place // batch].append(table)

    def take_moved(self) -> Mapping[str, int]:
        """How many blocks set out since this was last asked, by link."""
        moved, self._mover.moved = self._mover.moved, Counter()
        return moved

    def _full_blocks(self, layer: int) -> Sequence[BlockKey]:
        tables = self.tables[layer]
        if len(tables) == 1:
            return list(tables[0].full_blocks())
        return list(dict.fromkeys(key for table in tables for key in table.full_blocks()))


class KVDrives:
    """Computational drives that hold the cache instead: commands one after the other, writes beside the model."""

    def __init__(self, mover: QueuedMover, costs: DriveCosts) -> None:
        self._mover, self._costs = mover, costs
        self._free_s = 0.0
        self.num_tokens: dict[int, int] = {}
        """Of a row, by layer."""

    def store(self, layer: int, tokens: int) -> None:
        """Of a prompt: what was there is read back first, then these are on their way."""
        before = self.num_tokens.get(layer, 0)
        if before:
            self._wait()
            self._mover.compute(before * self._costs.read_s, 1.0)
        self._free_s = max(self._free_s, self._mover.clock.now_s) + tokens * self._costs.write_s
        self.num_tokens[layer] = before + tokens

    def attend(self) -> None:
        """The model waits for it, and for all writes before it."""
        self._wait()
        self._mover.compute(self._costs.attend_s, 1.0)

    def _wait(self) -> None:
        self._mover.compute(max(0.0, self._free_s - self._mover.clock.now_s), 1.0)


class _CountingMover:
    """Counts the blocks of one manager, by link."""

    def __init__(self, mover: QueuedMover) -> None:
        self._mover = mover
        self.moved: Counter[str] = Counter()
        self.wait, self.cancel = mover.wait, mover.cancel

    def submit(self, source: Tier, target: Tier, moves: Sequence[Move], priority: Priority) -> QueuedTransfer:
        self.moved[f"{source.name}->{target.name}"] += len(moves)
        return self._mover.submit(source, target, moves, priority)
