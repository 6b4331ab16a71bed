"""Which devices there are, and what is said of those that are not."""

import pytest
import torch

from offload.device import available_bytes, available_host_bytes, has_own_memory, require_device, torch_device
from tests.tiers.devices import needs_cuda
from tiers.errors import InvalidOptionError


def test_names() -> None:
    assert torch_device("cuda") == torch.device("cuda:0")
    assert torch_device("cpu") == torch.device("cpu")
    assert has_own_memory("cuda:1")
    assert not has_own_memory("cpu")


def test_a_processor_has_one_memory() -> None:
    require_device("cpu")
    assert available_bytes("cpu") > 0
    assert available_host_bytes("cpu") is None


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch without CUDA")
def test_a_torch_without_cuda() -> None:
    with pytest.raises(InvalidOptionError, match=r"--device cuda: this torch is built without CUDA; use --device cpu"):
        require_device("cuda")


@pytest.mark.gpu
@needs_cuda
def test_a_gpu_that_does_not_exist() -> None:
    require_device("cuda:0")
    with pytest.raises(InvalidOptionError, match=r"--device cuda:99: this machine has cuda:0"):
        require_device("cuda:99")


@pytest.mark.gpu
@needs_cuda
def test_what_a_gpu_can_spare() -> None:
    free, total = torch.cuda.mem_get_info(0)
    assert 0 < available_bytes("cuda") < min(free, total)
    assert (available_host_bytes("cuda") or 0) > 0
