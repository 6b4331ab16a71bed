"""The cache of experts at work, on a modelled link."""

from prefetch.base import Prediction
from prefetch.expert_predictor import ExpertPredictor
from prefetch.expert_waves import ExpertWaves
from simulators.modelled_link import VirtualClock
from simulators.modelled_mover import EmptyTier, ModelledMover, Route
from tiers.block import BlockKey, ExpertKey
from tiers.eviction.lru import LRUPolicy
from tiers.manager import Level, TieredMemoryManager
from tiers.pool import BlockPool

EXPERTS = [ExpertKey(layer, expert, "stored") for layer in range(2) for expert in range(8)]


class Nobody(ExpertPredictor):
    """Expects nothing."""

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        return []


class BusyLink:
    """Pace of a link that has been at work for a second, on so many bytes that have arrived."""

    def __init__(self, mover: ModelledMover, nbytes: int) -> None:
        self._mover = mover
        self._nbytes = nbytes

    def now_s(self) -> float:
        return self._mover.clock.now_s

    def waited_s(self) -> float:
        return self._mover.stall_s

    def delivered(self) -> tuple[int, float]:
        return self._nbytes, 1.0


def make_waves(slots: int, nbytes: int) -> ExpertWaves:
    mover = ModelledMover(VirtualClock(), {"nvme->device": Route(lambda blocks, _: 0.1 * blocks, "nvme")})
    level = Level(EmptyTier("device", slots, 4096), BlockPool(slots), LRUPolicy(slots))
    manager = TieredMemoryManager(mover, [level], EmptyTier("nvme", len(EXPERTS), 4096))
    manager.adopt({key: slot for slot, key in enumerate(EXPERTS)})
    waves = ExpertWaves(manager, 4096, BusyLink(mover, nbytes))
    waves.predict_with(Nobody())
    return waves


def test_a_link_that_works_on_its_first_bytes_is_not_one_without_any_speed() -> None:
    waves = make_waves(4, nbytes=0)
    served = [key for group in waves.waves(EXPERTS[:3]) for key, _ in group]
    assert served == EXPERTS[:3]


def test_what_is_there_comes_together_and_what_is_missing_one_by_one() -> None:
    waves = make_waves(4, nbytes=4096)
    assert [len(group) for group in waves.waves(EXPERTS[:2])] == [1, 1]
    assert [[key for key, _ in group] for group in waves.waves(EXPERTS[:3])] == [EXPERTS[:2], [EXPERTS[2]]]


def test_more_experts_than_slots_take_turns() -> None:
    waves = make_waves(2, nbytes=4096)
    served = [key for group in waves.waves(EXPERTS[:8]) for key, _ in group]
    assert sorted(served) == EXPERTS[:8]
