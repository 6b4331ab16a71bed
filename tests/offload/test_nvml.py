"""What the driver's management library says, and what is said where it is missing, silent or strange.

No machine of the default suite has it: a stand-in with its names and its errors is put where Python looks for it.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

from offload.device import device_uuid
from offload.gpu_room import require_room, shortage
from offload.gpu_storage import how_to_install
from offload.nvml import GpuUse, probe_nvml, read_nvml
from tests.tiers.devices import needs_cuda
from tiers.errors import BudgetError

GIB = 2**30

HERE = os.getpid()
GONE = 2**30
"""No process of this machine, as those that a driver tells a container of."""

STAND_IN = """
import os
from types import SimpleNamespace
class NVMLError(Exception): pass
def nvmlInit():
    if {init!r}: raise NVMLError({init!r})
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return {driver!r}
def nvmlDeviceGetHandleByUUID(uuid):
    if uuid != {uuid!r}: raise NVMLError("Not Found")
    return 4711
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=80 << 30, free=20 << 30, used=60 << 30)
def nvmlDeviceGetComputeRunningProcesses(handle):
    if {processes!r} is None: raise NVMLError("Not Supported")
    ours = SimpleNamespace(pid=os.getpid(), usedGpuMemory=1 << 30)
    return [ours] + [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in {processes!r}]
"""


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Put":
    return Put(tmp_path, monkeypatch)


class Put:
    """Installs a stand-in that fails or answers as asked."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.monkeypatch = path, monkeypatch

    def __call__(
        self,
        *,
        init: str = "",
        uuid: str = "GPU-12",
        driver: str | bytes = "580.65.06",
        processes: list[tuple[int, int | None]] | None = None,
    ) -> None:
        text = STAND_IN.format(init=init, uuid=uuid, driver=driver, processes=processes)
        (self.path / "pynvml.py").write_text(text)
        self.monkeypatch.delitem(sys.modules, "pynvml", raising=False)
        self.monkeypatch.syspath_prepend(self.path)


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_nvml("12") == "not installed; needed with CUDA only: pip install 'offload-runtime[gpu-cuda12]'"
    assert not probe_nvml(None).is_usable


@pytest.mark.parametrize(("cuda", "extra"), [(None, "gpu-cuda12"), ("12.8", "gpu-cuda12"), ("13.0", "gpu-cuda13")])
def test_names_the_packages_for_the_cuda_of_torch(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, extra: str
) -> None:
    monkeypatch.setattr("torch.version.cuda", cuda)
    assert how_to_install().endswith(f"'offload-runtime[{extra}]'")


def test_a_driver_that_does_not_answer(put: Put) -> None:
    put(init="Driver/library version mismatch\nmore")
    expected = "installed, but the driver does not answer: Driver/library version mismatch"
    assert read_nvml("12") == probe_nvml("12").note == expected


def test_a_gpu_that_it_does_not_know(put: Put) -> None:
    put(uuid="GPU-13")
    assert probe_nvml("12").note == "installed, but says nothing of this GPU: Not Found"


def test_other_processes_and_what_they_hold(put: Put) -> None:
    put(processes=[(7, GIB), (8, 50 * GIB), (9, None), (10, 2 * GIB)], driver=b"580.65.06")
    found = read_nvml("12")
    assert isinstance(found, GpuUse)
    assert (found.free_bytes, found.is_slice) == (20 * GIB, False)
    who = "other processes hold some of it (pid 8: 50GiB, pid 10: 2GiB, pid 7: 1GiB and 1 more)"
    assert found.others_in_words() == who
    finding = probe_nvml("12")
    assert finding.is_usable
    assert finding.note == f"driver 580.65.06, 20GiB of 80GiB free; {who}"


def test_a_slice_and_a_driver_that_tells_of_no_processes(put: Put) -> None:
    put(uuid="MIG-12")
    assert probe_nvml("12").note == "driver 580.65.06, a slice of a GPU (MIG), 20GiB of 80GiB free"


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("not installed", "who holds the rest is not known (NVML is not installed); lower --device-memory"),
        (GpuUse("580", 80, 20, ((HERE, 50 * GIB),), False), f"(pid {HERE}: 50GiB); lower --device-memory or end them"),
        (GpuUse("580", 80, 20, ((GONE, 50 * GIB),), False), f"(pid {GONE}: 50GiB); lower --device-memory"),
        (GpuUse("580", 80, 20, (), True), "it is a slice of a GPU (MIG) and has no more; lower --device-memory"),
        (GpuUse("580", 80, 20, (), False), "20GiB of 80GiB free; lower --device-memory"),
    ],
    ids=["not installed", "here", "elsewhere", "slice", "nobody"],  # a number of a process would differ by worker
)
def test_too_little_memory_is_one_line(use: GpuUse | str, said: str) -> None:
    error = shortage("cuda:0", 40 * GIB, 20 * GIB, 80 * GIB, use)
    assert str(error).startswith("--device cuda:0: 40GiB wanted, 20GiB of 80GiB free")
    assert str(error).endswith(said)
    assert "\n" not in str(error)
    assert (error.wanted_bytes, error.available_bytes) == (40 * GIB, 20 * GIB)


def test_a_processor_is_not_asked() -> None:
    require_room("cpu", 2**60)


@pytest.mark.gpu
@needs_cuda
def test_a_gpu_that_has_not_so_much() -> None:
    require_room("cuda", 2**20)
    with pytest.raises(BudgetError, match=r"--device cuda: 1024TiB wanted, .* free"):
        require_room("cuda", 2**50)


@pytest.mark.gpu
@needs_cuda
def test_what_it_says_of_a_gpu_that_is_there() -> None:
    pytest.importorskip("pynvml")
    found = read_nvml(device_uuid("cuda"))
    assert isinstance(found, GpuUse)
    assert 0 < found.free_bytes <= found.total_bytes
    assert abs(found.free_bytes - torch.cuda.mem_get_info(0)[0]) < GIB
