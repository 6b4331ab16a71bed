"""The benchmark of the drive runs for real on a small file; its numbers are not judged here."""

import json
from pathlib import Path

import pytest

from offload.bench.fio import Fio, FioFailed, find_fio
from offload.bench.io import bench_io
from offload.disk_speed import FILL_NBYTES, Pattern, descriptor, lay_down, measure, read_latency_s
from tiers.checksum import crc32c
from tiers.errors import InvalidOptionError, TransferError
from tiers.nvme_tier import NVMeTier

MIB = 2**20
needs_fio = pytest.mark.skipif(find_fio(direct=True, nbytes=MIB, seed=0) is None, reason="fio is not installed")


def _bench(directory: Path) -> dict[str, object]:
    return bench_io(directory, seconds_per_row=0.06, sizes=(64 * 2**10, MIB), file_bytes=4 * MIB, rounds=1, seed=7)


def test_rows_follow_the_contract(tmp_path: Path) -> None:
    result = json.loads(json.dumps(_bench(tmp_path)))
    assert result["seed"] == 7
    assert result["hardware"]["cores"] > 0
    assert result["hardware"]["drive"] != "unknown"
    assert result["command"]
    names = [row["name"] for row in result["rows"]]
    assert len(names) == len(set(names)) == 10
    for row in result["rows"]:
        assert row["unit"] in ("GiB/s", "CPU s/GiB")
        assert row["ours"] > 0
        if "peer" in row:
            higher_is_better = row["unit"] == "GiB/s"
            ratio = row["ours"] / row["peer"] if higher_is_better else row["peer"] / row["ours"]
            assert row["ratio_to_peer"] == pytest.approx(ratio)
    assert list(tmp_path.iterdir()) == []


def test_without_fio_there_is_no_peer_and_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = _bench(tmp_path / "drive")
    assert "not installed" in str(result["fio"])
    rows = result["rows"]
    assert isinstance(rows, list)
    assert not any({"peer", "limit", "ratio_to_peer", "ratio_to_limit"} & row.keys() for row in rows)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOptionError, match="--nvme-dir"):
        _bench(tmp_path / "file")


@needs_fio
@pytest.mark.parametrize("is_write", [False, True])
def test_fio_measures_a_file_without_a_name(tmp_path: Path, is_write: bool) -> None:
    tier = NVMeTier(tmp_path, 4, MIB)
    try:
        nbytes = lay_down(tier, seconds=10)
        fio = find_fio(direct=tier.direct, nbytes=nbytes, seed=0)
        assert fio is not None
        assert fio.version().startswith("fio")
        result = fio.measure(descriptor(tier), Pattern(65536, is_write, is_random=not is_write), "psync", 0.05)
        assert not isinstance(result, FioFailed), result
        assert result.bytes_per_s > 0
    finally:
        tier.close()


@needs_fio
def test_a_fio_that_fails_says_why(tmp_path: Path) -> None:
    tier = NVMeTier(tmp_path, 1, MIB)
    try:
        fio = find_fio(direct=tier.direct, nbytes=MIB, seed=0)
        assert fio is not None
        result = fio.measure(descriptor(tier), Pattern(4096, False, True), "no-such-engine", 0.05)
        assert isinstance(result, FioFailed)
        assert "no-such-engine" in result.reason
    finally:
        tier.close()


def test_a_program_that_is_gone_is_a_failure_too(tmp_path: Path) -> None:
    fio = Fio(str(tmp_path / "fio"), direct=True, nbytes=MIB, seed=0)
    assert isinstance(fio.measure(0, Pattern(4096, False, True), "libaio", 0.01), FioFailed)


def test_what_is_measured_is_what_was_written(tmp_path: Path) -> None:
    """Every block read has the checksum of the block that lies there; nothing outside the file's part is read."""
    tier = NVMeTier(tmp_path, 4, FILL_NBYTES)
    seen: dict[int, int] = {}
    try:
        assert lay_down(tier, seconds=10) == 4 * FILL_NBYTES
        pattern = Pattern(FILL_NBYTES, is_write=False, is_random=True, depth=3)

        def check(offset: int, block: memoryview) -> None:
            seen[offset] = crc32c(block)

        speed = measure(tier, pattern, nbytes=3 * FILL_NBYTES, seconds=0.05, check=check)
        assert speed.nbytes % FILL_NBYTES == 0
        assert set(seen) <= {0, FILL_NBYTES, 2 * FILL_NBYTES}
        content = Path(f"/proc/self/fd/{descriptor(tier)}").read_bytes()
        for offset, checksum in seen.items():
            assert crc32c(memoryview(content)[offset : offset + FILL_NBYTES]) == checksum
        assert read_latency_s(tier, nbytes=4 * FILL_NBYTES, seconds=0.01) > 0
    finally:
        tier.close()


def test_a_read_beyond_the_file_is_an_error(tmp_path: Path) -> None:
    tier = NVMeTier(tmp_path, 1, FILL_NBYTES)
    try:
        with pytest.raises(TransferError, match="failed"):
            measure(tier, Pattern(FILL_NBYTES, False, True), nbytes=64 * FILL_NBYTES, seconds=0.05)
    finally:
        tier.close()
