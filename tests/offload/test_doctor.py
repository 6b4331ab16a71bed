"""The doctor measures the machine that the tests run on: small files, real numbers, no claims about how large."""

import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from offload.disk_speed import file_nbytes
from offload.doctor import Report, examine, load_profile
from offload.experts.codecs.kernels import Kernels
from offload.gpu_storage import probe_cuda, probe_cupy, probe_gds, probe_kvikio, probe_pinned
from offload.speed.contexts import ContextSizes
from offload.speed.models import Sizes
from offload.speed.runtime import Effort
from simulators.profile import DEFAULT, LINKS
from simulators.profile_file import read_profile
from tiers.errors import DiskFullError, InvalidOptionError, TierBusyError
from tiers.nvme_tier import NVMeTier

FILE_BYTES = 4 * 2**20
SECONDS = 0.02
EFFORT = Effort(
    seconds=0.001,
    pool_nbytes=2**24,
    models=Sizes(
        (1, 4), mixed_layers=1, hidden=128, whole_layers=2, whole_hidden=(128, 128), vocabulary=256, steps=2, repeats=1
    ),
    contexts=ContextSizes(2, 128, context=200, prompts=(32, 64), steps=2, repeats=1, block_tokens=(16, 32)),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Profiles of tests stay among themselves."""
    path = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path


def _examine(nvme_dir: Path | None) -> Report:
    return examine(nvme_dir, file_bytes=FILE_BYTES, seconds=SECONDS, effort=EFFORT)


def test_the_report_has_what_scripts_read(tmp_path: Path) -> None:
    found = json.loads(json.dumps(_examine(tmp_path / "drive").as_json()))
    assert found["device"] == "cpu" or found["device"].startswith("cuda")
    for name in ("cuda", "gds", "kvikio", "cupy", "nvml", "pinned", "o_direct"):
        assert isinstance(found[name], bool)
        assert found[f"{name}_note"]
    assert set(found["links"]) == set(LINKS)
    for link in found["links"].values():
        assert link["read_gib_s"] > 0
        assert link["write_gib_s"] > 0
        assert link["latency_us"] > 0


def test_the_kernels_are_those_that_won_here(tmp_path: Path) -> None:
    """A bound of the ladder that was climbed, or 0; kept in the profile, and what a model is loaded with."""
    report = _examine(tmp_path / "drive")
    found = report.as_json()["kernels"]
    assert report.profile.device != "cpu" or found == dict(load_profile().kernels or {})
    if isinstance(found, dict):
        assert found.keys() == {"bf16", "int8", "int4"}
        assert all(tokens in {0, *(2**i for i in range(9))} for tokens in found.values())
        assert Kernels.of(found) == Kernels(**found)


def test_the_runtime_itself_is_measured(tmp_path: Path) -> None:
    """On a processor: every number is there, none is negative, and a profile gives them back."""
    report = _examine(tmp_path / "drive")
    found = report.profile.runtime
    if report.profile.device != "cpu":
        assert found is None
        return
    assert found is not None
    assert found == load_profile().runtime
    assert found.products.keys() == found.vector_products.keys() == {"float32", "bfloat16"}
    assert 0 < found.busy_share <= 1
    assert found.attention_flops_per_s > 0
    assert [nbytes for nbytes, _ in found.activations["float32"]] == [31 * 4864, 63 * 4864]
    assert found.kv_moved.keys() == {"host->device", "device->host", "nvme->device", "device->nvme"}
    assert all(nbytes % 4096 == 0 and rate > 0 for table in found.kv_moved.values() for nbytes, rate in table)
    numbers = {name: value for name, value in asdict(found).items() if isinstance(value, float)}
    assert all(value >= 0 for value in numbers.values())
    assert report.as_json()["runtime"] == asdict(found)


def test_nothing_is_left_in_the_directory(tmp_path: Path) -> None:
    existing = tmp_path / "existing"
    existing.mkdir()
    _examine(existing)
    assert list(existing.iterdir()) == []
    _examine(tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_nothing_is_left_after_an_interruption(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the measurement: progress is reported while the file exists."""

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(tmp_path / "drive", progress=interrupt, file_bytes=FILE_BYTES, seconds=SECONDS, effort=EFFORT)
    assert not (tmp_path / "drive").exists()
    NVMeTier(tmp_path / "drive", 1, 4096).close()


def test_the_profile_is_kept_in_private_and_used(tmp_path: Path, cache: Path) -> None:
    assert load_profile() == DEFAULT
    report = _examine(tmp_path / "drive")
    assert report.profile_path == cache / "offload-runtime" / "profile.json"
    assert stat.S_IMODE(report.profile_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(report.profile_path.parent.stat().st_mode) == 0o700
    assert load_profile() == read_profile(report.profile_path) == report.profile
    assert "measured" in report.profile.source
    drive = report.profile.links["nvme->device"]
    assert drive.by_size is not None
    assert [size for size, _ in drive.by_size] == [64 * 2**10, 2**20]


def test_a_damaged_profile_is_not_ignored(cache: Path) -> None:
    (cache / "offload-runtime").mkdir(parents=True)
    (cache / "offload-runtime" / "profile.json").write_text("{}")
    with pytest.raises(InvalidOptionError, match="offload doctor"):
        load_profile()


def test_without_a_directory_the_drive_is_assumed() -> None:
    report = _examine(None)
    assert report.profile.links["nvme->device"] == DEFAULT.links["nvme->device"]
    assert "assumed" in report.profile.source
    assert not report.o_direct.is_usable


def test_progress_runs_up_to_its_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    examine(
        tmp_path / "drive",
        progress=lambda *step: seen.append(step),
        file_bytes=FILE_BYTES,
        seconds=SECONDS,
        effort=EFFORT,
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("below", ["file", "file/further"])
def test_what_cannot_be_a_directory_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOptionError, match="--nvme-dir"):
        _examine(tmp_path / below)


def test_an_unwritable_directory_is_refused(tmp_path: Path) -> None:
    """As an ordinary user where the tests run as root, whom no permission stops."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    code = f"""
import os, pathlib
from tiers.nvme_tier import NVMeTier
os.getuid() or os.setuid(65534)
NVMeTier(pathlib.Path({str(locked)!r}), 1, 4096)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "InvalidOptionError" in done.stderr


def test_a_cache_that_cannot_be_made_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InvalidOptionError, match="XDG_CACHE_HOME"):
        _examine(tmp_path / "drive")
    assert not (tmp_path / "drive").exists()


def test_a_relative_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _examine(None).profile_path == tmp_path / ".cache" / "offload-runtime" / "profile.json"


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    tier = NVMeTier(tmp_path / "drive", 1, 4096)
    try:
        with pytest.raises(TierBusyError):
            _examine(tmp_path / "drive")
    finally:
        tier.close()


def test_the_file_takes_a_sensible_part_of_the_drive(tmp_path: Path) -> None:
    stat_ = os.statvfs(tmp_path)
    free = stat_.f_bavail * stat_.f_frsize
    try:
        assert 16 * 2**20 <= file_nbytes(tmp_path / "not" / "made" / "yet") <= min(2**30, free)
    except DiskFullError:
        assert free < 64 * 2**20


def test_what_is_missing_for_a_gpu_is_said() -> None:
    kvikio, gds = probe_kvikio(), probe_gds()
    for finding in (probe_cuda(), kvikio, probe_cupy(), gds, probe_pinned("cpu")):
        assert finding.note
        assert "\n" not in finding.note
    assert kvikio.is_usable or not gds.is_usable
    assert "ulimit -l" in probe_pinned("cpu").note
