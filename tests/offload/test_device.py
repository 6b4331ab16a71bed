"""Which devices there are, and what is said of those that are not."""

import re

import pytest
import torch

from offload.device import (
    MemoryKind,
    available_bytes,
    available_host_bytes,
    check_index,
    explain_cuda_error,
    has_own_memory,
    memory_kind,
    require_device,
    torch_device,
)
from tests.tiers.devices import needs_cuda
from tiers.errors import InvalidOptionError


def test_names() -> None:
    assert torch_device("cuda") == torch.device("cuda:0")
    assert torch_device("cpu") == torch.device("cpu")
    assert has_own_memory("cuda:1")
    assert not has_own_memory("cpu")
    assert memory_kind("cpu") is MemoryKind.PROCESSOR


def test_a_processor_has_one_memory() -> None:
    require_device("cpu")
    assert available_bytes("cpu") > 0
    assert available_host_bytes("cpu") is None


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch without CUDA")
def test_a_torch_without_cuda() -> None:
    with pytest.raises(InvalidOptionError, match=r"--device cuda: this torch is built without CUDA; use --device cpu"):
        require_device("cuda")


# The words are torch's own, of a machine with such a driver.
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
SAID = (
    "the driver supports CUDA 11.4, this torch is built for 12.8; update the driver, or install a torch for CUDA 11.4"
)
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (TOO_OLD, SAID),
        (NO_DRIVER, "no NVIDIA driver is loaded here"),
        ("Unexpected error\nof many lines", "no CUDA device is usable here (Unexpected error)"),
    ],
)
def test_why_there_is_no_cuda(message: str, said: str) -> None:
    assert explain_cuda_error(message, "12.8") == said


@pytest.mark.parametrize(
    ("name", "count", "shown", "said"),
    [
        ("cuda:1", 1, None, "--device cuda:1: this machine has cuda:0; use one of these or cpu"),
        ("cuda:7", 3, None, "--device cuda:7: this machine has cuda:0 to cuda:2; use one of these or cpu"),
        ("cuda:1", 1, "3", "this machine has cuda:0 (CUDA_VISIBLE_DEVICES=3 hides others); use one"),
    ],
)
def test_an_index_that_is_too_high(name: str, count: int, shown: str | None, said: str) -> None:
    with pytest.raises(InvalidOptionError, match=re.escape(said)):
        check_index(name, count, shown)
    check_index("cuda", count, shown)


@pytest.mark.gpu
@needs_cuda
def test_a_gpu_that_does_not_exist() -> None:
    require_device("cuda:0")
    with pytest.raises(InvalidOptionError, match=r"--device cuda:99: this machine has cuda:0"):
        require_device("cuda:99")


@pytest.mark.gpu
@needs_cuda
def test_what_a_gpu_can_spare() -> None:
    torch.cuda.empty_cache()  # what torch keeps for reuse counts as ours
    free, total = torch.cuda.mem_get_info(0)
    assert 0 < available_bytes("cuda") < min(free, total)
    assert (available_host_bytes("cuda") or 0) > 0
