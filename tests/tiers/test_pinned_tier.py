"""Host memory that is page-locked where there is a CUDA device, and says so where there is none."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.contracts.tier import BLOCK_NBYTES, NUM_SLOTS, TierContract
from tiers import pinned_tier
from tiers.pinned_tier import PinnedTier
from tiers.tier import ALIGNMENT, SupportsMemory, SupportsView, Tier

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class TestPinnedTier(TierContract):
    """Memory like any other, pinned or not."""

    device = "cpu"

    def make(self, directory: Path) -> Tier:
        return PinnedTier("host", NUM_SLOTS, BLOCK_NBYTES, device=self.device)

    def get(self, tier: Tier, slot: int) -> bytes:
        assert isinstance(tier, PinnedTier)
        return bytes(tier.buffer)[slot * BLOCK_NBYTES :][:BLOCK_NBYTES]

    def put(self, tier: Tier, slot: int, data: bytes) -> None:
        assert isinstance(tier, PinnedTier)
        tier.buffer[slot * BLOCK_NBYTES : (slot + 1) * BLOCK_NBYTES] = data


@pytest.mark.gpu
@needs_cuda
class TestPinnedCudaTier(TestPinnedTier):
    device = "cuda"


def test_says_why_it_is_not_pinned() -> None:
    tier = PinnedTier("host", 2, ALIGNMENT, device="cpu")
    assert not tier.is_pinned
    assert tier.note == "not pinned: cpu is no CUDA device of this machine"
    assert isinstance(tier, SupportsView)
    assert isinstance(tier, SupportsMemory)
    tier.close()


def test_slots_are_of_their_own_sizes() -> None:
    tier = PinnedTier.of_sizes("host", [1, 2 * ALIGNMENT], device="cpu")
    assert [tier.view(slot).nbytes for slot in range(2)] == [ALIGNMENT, 2 * ALIGNMENT]
    tier.close()


def test_touches_pages_from_processors_of_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is free to run anywhere afterwards; a node that cannot be had is no error."""
    allowed = os.sched_getaffinity(0)
    first = min(allowed)
    for node, processors in enumerate([f"{first},4000-4003\n", "4000-4003\n"]):
        directory = tmp_path / f"devices/system/node/node{node}"
        directory.mkdir(parents=True)
        (directory / "cpulist").write_text(processors)
    monkeypatch.setattr(pinned_tier, "_SYS", tmp_path)
    expected_on: dict[int | None, set[int]] = {0: {first}, 1: allowed, 2: allowed, None: allowed}
    for place, expected in expected_on.items():
        with pinned_tier._running_on(place):
            assert os.sched_getaffinity(0) == expected
        assert os.sched_getaffinity(0) == allowed


@pytest.mark.gpu
@needs_cuda
def test_is_pinned_at_its_exact_size_and_let_go() -> None:
    tier = PinnedTier("host", 3, 5 * ALIGNMENT)
    assert tier.is_pinned
    assert tier.note.startswith("pinned")
    tensor = torch.frombuffer(tier.buffer, dtype=torch.uint8)
    assert tensor.nbytes == 15 * ALIGNMENT
    assert tensor.is_pinned()
    array = np.frombuffer(tier.buffer, np.uint8)
    tier.close()
    tier.close()
    assert not tensor.is_pinned()
    assert array.sum() == 0, "a tensor that looks into it keeps the memory"


@pytest.mark.gpu
@needs_cuda
def test_is_let_go_when_it_is_forgotten() -> None:
    """Else CUDA would go on to write to the pages of memory that is long unmapped."""
    for turn in range(20):
        tier = PinnedTier("host", 3, 5 * ALIGNMENT)
        assert tier.is_pinned
        tensor = torch.frombuffer(tier.buffer, dtype=torch.uint8)
        tensor.copy_(torch.full((15 * ALIGNMENT,), turn, dtype=torch.uint8, device="cuda"), non_blocking=True)
        torch.cuda.synchronize()
        assert int(tensor.min()) == int(tensor.max()) == turn
        del tier, tensor


@pytest.mark.gpu
@needs_cuda
def test_may_have_no_slots() -> None:
    tier = PinnedTier("host", 0, ALIGNMENT)
    assert not tier.is_pinned
    tier.close()


@pytest.mark.gpu
@needs_cuda
def test_a_refusal_is_no_error_of_what_comes_after() -> None:
    tier = PinnedTier("host", 3, 5 * ALIGNMENT)
    assert pinned_tier.pin(tier, tier.buffer, "cuda")[1].startswith("not pinned: CUDA error 712 for 61,440 bytes")
    assert int(torch.ones(4, device="cuda").sum()) == 4
    tier.close()


def test_no_more_is_pinned_than_the_slots_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping cannot be empty, a tier can."""
    asked: list[int] = []

    def pin(owner: object, memory: memoryview, device: object) -> tuple[None, str]:
        asked.append(memory.nbytes)
        return None, ""

    monkeypatch.setattr(pinned_tier, "pin", pin)
    for num_slots in (0, 3):
        PinnedTier("host", num_slots, ALIGNMENT).close()
    assert asked == [0, 3 * ALIGNMENT]
