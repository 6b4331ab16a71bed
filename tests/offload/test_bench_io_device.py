"""The rows of a device, on the processor that pretends to be one and on a CUDA device; their numbers are not judged."""

from contextlib import closing
from pathlib import Path

import pytest
import torch

from offload.bench.io import bench_io
from offload.bench.io_device import LARGE_NBYTES, DeviceBench, _copy
from tests.pretended.tensors import Pretence
from tests.tiers.devices import CUDA
from tests.tiers.kit import content
from tiers.errors import InvalidOptionError
from tiers.nvme_tier import NVMeTier

MIB = 2**20


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_rows_follow_the_contract(tmp_path: Path, device: str) -> None:
    """As many runs as were promised to the progress bar."""
    ticks: list[None] = []
    with closing(NVMeTier(tmp_path, 2, MIB)) as tier:
        for slot in range(2):
            tier.write(slot, memoryview(content(slot, MIB)))
        bench = DeviceBench(device, tier, 2 * MIB, rounds=2, seconds_per_row=0.0, copy_nbytes=2 * LARGE_NBYTES)
        rows = bench.rows(lambda: ticks.append(None))
    assert len(ticks) == bench.num_runs
    names = [str(row["name"]) for row in rows]
    assert names[:3] == [
        f"host to {device}, 4 MiB blocks",
        f"{device} to host, 4 MiB blocks",
        f"host to {device}, scattered KV blocks of 8 KiB",
    ]
    assert names[6] == f"nvme to {device}, CRC32C checked"
    assert len(names) == len(set(names))
    for row in rows:
        ours, peer, limit = row["ours"], row["peer"], row["limit"]
        assert isinstance(ours, float)
        assert isinstance(peer, float)
        assert isinstance(limit, float)
        assert row["unit"] == "GiB/s"
        assert ours > 0
        assert row["ratio_to_peer"] == pytest.approx(ours / peer)
        assert row["ratio_to_limit"] == pytest.approx(ours / limit)
        assert limit <= peer


def test_the_device_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="--device cuda:77: "):
        bench_io(tmp_path / "drive", seconds_per_row=0.01, sizes=(MIB,), file_bytes=2 * MIB, device="cuda:77")
    assert not (tmp_path / "drive").exists()


def test_waits_for_the_device_that_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for the current one: the time of a copy to another would be that of asking for it."""
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    with Pretence():
        there, here = torch.zeros(8, device="cuda"), torch.ones(8).pin_memory()
        for ends in ((here, there), (there, here), (here, here)):
            _copy(*ends, times=2)
    assert waited == [there.device, there.device]
