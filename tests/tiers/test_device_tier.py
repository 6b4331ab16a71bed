"""Device memory as a tier: on the processor here, on a CUDA device where there is one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.contracts.tier import BLOCK_NBYTES, NUM_SLOTS, TierContract
from tiers.device_tier import DeviceTier
from tiers.errors import TierError
from tiers.tier import ALIGNMENT, SupportsChecksum, SupportsDeviceTensor, SupportsDirectIO, SupportsView, Tier


class TestDeviceTier(TierContract):
    device = "cpu"

    def make(self, directory: Path) -> Tier:
        return DeviceTier("device", NUM_SLOTS, BLOCK_NBYTES, self.device)

    def get(self, tier: Tier, slot: int) -> bytes:
        assert isinstance(tier, DeviceTier)
        block = tier.buffer.cpu()[slot * BLOCK_NBYTES : (slot + 1) * BLOCK_NBYTES]
        return block.numpy().tobytes()

    def put(self, tier: Tier, slot: int, data: bytes) -> None:
        assert isinstance(tier, DeviceTier)
        block = torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))
        tier.buffer[slot * BLOCK_NBYTES : (slot + 1) * BLOCK_NBYTES] = block.to(self.device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestCudaTier(TestDeviceTier):
    device = "cuda"

    def test_says_how_much_memory_there_is_not(self) -> None:
        wanted = r"tier 'device': 4,503,599,627,370,496 bytes of memory on cuda: [0-9,]+ are free; lower its budget"
        with pytest.raises(TierError, match=wanted):
            DeviceTier("device", 2**40, 4096, self.device)


def test_is_tensors_and_nothing_else() -> None:
    """A view would be memory of this process, which a CUDA device's is not: the processor pretends for it."""
    tier = DeviceTier("device", 2, 4096, "cpu")
    assert isinstance(tier, SupportsDeviceTensor)
    assert not isinstance(tier, SupportsView | SupportsDirectIO | SupportsChecksum)


def test_slots_are_of_their_own_sizes() -> None:
    tier = DeviceTier.of_sizes("resident", [100, 3 * ALIGNMENT, 0, ALIGNMENT], "cpu")
    assert [tier.tensor(slot).nbytes for slot in range(4)] == [ALIGNMENT, 3 * ALIGNMENT, 0, ALIGNMENT]
    assert (tier.num_slots, tier.block_nbytes, tier.nbytes) == (4, 3 * ALIGNMENT, 5 * ALIGNMENT)
    for slot in range(4):
        tier.tensor(slot).fill_(slot + 1)
    assert tier.buffer.bincount().tolist() == [0, ALIGNMENT, 3 * ALIGNMENT, 0, ALIGNMENT]
    assert tier.buffer.data_ptr() % ALIGNMENT == 0


def test_a_block_that_is_too_large_is_refused() -> None:
    tier = DeviceTier("device", 2, 4096, "cpu")
    tier.buffer.fill_(1)
    with pytest.raises(TierError, match="5000 bytes do not fit in slot 0"):
        tier.write(0, memoryview(bytes(5000)))
    assert tier.buffer.min() == 1


def test_may_have_no_slots() -> None:
    """A budget of nothing is a tier all the same."""
    assert DeviceTier("device", 0, 4096, "cpu").nbytes == 0
    assert DeviceTier.of_sizes("resident", [], "cpu").nbytes == 0


def test_says_what_the_processor_says() -> None:
    with pytest.raises(TierError, match=r"tier 'device': 4,503,599,627,370,496 bytes of memory on cpu: .*; lower its"):
        DeviceTier("device", 2**40, 4096, "cpu")


def test_outlives_close_while_a_tensor_looks_into_it() -> None:
    tier = DeviceTier("device", 2, 4096, "cpu")
    tensor = tier.tensor(1)
    tensor.fill_(7)
    tier.close()
    assert int(tensor.sum()) == 7 * 4096


def test_the_tiers_are_there_without_torch() -> None:
    """What only simulates starts fast: the imports of the tiers leave torch alone."""
    code = "import sys, tiers.transfer, tiers.device_tier, tiers.manager; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
