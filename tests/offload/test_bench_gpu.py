"""Benchmarks of a GPU on models small enough for a test: on a processor that pretends to be one, and on a GPU.

Without a GPU what only it can do is left out: page-locked copies, and peers that ask CUDA for something.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from offload.bench import memory_limit
from offload.bench.gpu import GPUBench, GPUSizes
from offload.bench.gpu_experts import bench_experts_on_gpu
from offload.bench.gpu_kv import _Rows, _work_row, bench_kv_on_gpu
from offload.bench.launches import DeviceWork, covered
from offload.device import MemoryKind
from tests.offload.test_device_apart import FAMILIES
from tests.offload.zoo import save_model
from tests.tiers.devices import CUDA

SIZES = GPUSizes(
    prompt=16,
    new=3,
    slow_new=3,
    long_context=300,
    expert_prompt=8,
    expert_steps=9,
    rounds=1,
    fio_s=0.05,
    most_file_nbytes=16 * 2**20,
    copy_nbytes=2**20,
)


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(memory_limit, "_ROOT", tmp_path / "nowhere")  # the row in a cgroup has a test of its own
    monkeypatch.setattr("offload.bench.drive.find_fio", lambda **options: None)  # which takes its time to start
    if request.param == "cpu":
        for module in ("offload.arenas", "offload.budgets"):
            monkeypatch.setattr(f"{module}.memory_kind", lambda name: MemoryKind.OWN)
        monkeypatch.setattr("offload.budgets.available_host_bytes", lambda name: 2**28)
        monkeypatch.setattr("offload.bench.gpu.has_own_memory", lambda name: True)
        monkeypatch.setattr("offload.bench.gpu.free", lambda: None)  # half a second each
        for module in ("gpu_kv", "gpu_experts"):
            monkeypatch.setattr(f"offload.bench.{module}.free", lambda: None)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a processor")
        monkeypatch.setattr(GPUBench, "_copy_rate", lambda self: 1e9)
        monkeypatch.setattr(_Rows, "_accelerate", lambda *args, **kwargs: {"peer": 1.0})
        monkeypatch.setattr(_Rows, "_offloaded_cache", lambda *args: {"peer": 1.0})
        monkeypatch.setattr(_Rows, "_graph_config", lambda self: self.bench.config())
    return str(request.param)


def check(found: dict[str, Any], told: list[tuple[int, int]], num_rows: int) -> None:
    """Every row has its numbers but the one in a cgroup, which says why not; progress came to its end."""
    rows = found["rows"]
    assert len(rows) == num_rows
    assert told[-1][0] == told[-1][1]
    pageable = [note for note in found["slower_because"] if note.startswith("host: not pinned: ")]
    assert bool(pageable) == (found["device"] == "a processor")
    for row in rows:
        if "note" in row:
            assert "in a memory cgroup of 3GiB" in row["name"]
            assert row["note"].startswith("no memory cgroup can be made here")
            continue
        assert row["ours"] > 0
        assert row.get("limit", 1) > 0
        assert row.get("same_tokens", True)
    assert sum("note" in row for row in rows) == 1


def test_weights_and_kv(tmp_path: Path, device: str) -> None:
    told: list[tuple[int, int]] = []
    model = save_model(tmp_path / "model", "llama", num_hidden_layers=6, vocab_size=1000)
    found = bench_kv_on_gpu(
        model, tmp_path / "nvme", device, progress=lambda done, total: told.append((done, total)), sizes=SIZES
    )
    check(found, told, 8)
    work = next(row for row in found["rows"] if row["name"] == "all resident, against its kernels back to back")
    assert work["kernels_per_token"] > 6
    graphs = next(row for row in found["rows"] if row["name"] == "all resident, CUDA graphs")
    assert bool(graphs["replays"]) == (device != "cpu")
    missed = {row["name"]: row["missed_bytes_per_token"] for row in found["rows"] if "missed_bytes_per_token" in row}
    assert missed["half of the weights in the host"]["host->device"] > 0
    assert missed["half of the weights in the host"]["nvme->device"] == 0
    assert missed["half of the weights on the drive"]["host->device"] == 0
    assert missed["half of the weights on the drive"]["nvme->device"] > 0


def test_experts(tmp_path: Path, device: str) -> None:
    told: list[tuple[int, int]] = []
    model = save_model(tmp_path / "model", "mixtral", **FAMILIES["mixtral"])
    found = bench_experts_on_gpu(
        model, tmp_path / "nvme", device, progress=lambda done, total: told.append((done, total)), sizes=SIZES
    )
    check(found, told, 8)


def test_work_that_overlaps_counts_once() -> None:
    assert covered([(5, 6), (0, 2), (1, 3), (1.5, 2.5)]) == 4
    assert covered([]) == 0


def test_a_profiler_that_sees_nothing_is_said() -> None:
    """As in a container that may not look into the GPU: then there is no limit to compare with."""
    row = _work_row(0.02, DeviceWork(0, 0))
    assert (row["ours"], "limit" in row) == (50, False)
    assert "not known" in row["note"]
