"""Which settings the doctor finds for kvikio: real reads, by a stand-in for it."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from offload import kvikio_speed
from offload.disk_speed import FILL_NBYTES, lay_down
from offload.kvikio_speed import fastest_settings, read_rate
from offload.loader import _transfer_config
from simulators.profile import DEFAULT_CUDA
from simulators.profile_file import read_profile, write_profile
from tests.tiers.kvikio_standin import standin
from tiers.errors import InvalidOptionError
from tiers.kvikio_settings import KvikioSettings
from tiers.nvme_tier import NVMeTier


def test_reads_the_file_at_some_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(NVMeTier(tmp_path, 4, FILL_NBYTES)) as tier, standin(monkeypatch) as told:
        nbytes = lay_down(tier, seconds=1)
        settings, rate = fastest_settings(tier, "cpu", nbytes=nbytes, seconds=0.01)
        assert rate > 0
        assert settings.num_threads in {4, 8, 16, 32}
        assert told.keys() == {"num_threads", "task_size", "auto_direct_io_read"}
        assert read_rate(tier, "cpu", settings, nbytes=3 * 2**19, seconds=10) > 0, "ends where the file does"


def test_keeps_what_is_clearly_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One setting after the other; a per cent more is no reason to change."""

    def rate(tier: object, device: object, settings: KvikioSettings, **_: object) -> float:
        fast = 2.0 if settings.num_threads == 32 else 1.0
        return fast * (1.01 if settings.task_nbytes == 2**19 else 1.0) * (1.0 if settings.is_direct else 1.5)

    monkeypatch.setattr(kvikio_speed, "read_rate", rate)
    with closing(NVMeTier(tmp_path, 1, FILL_NBYTES)) as tier:
        found = fastest_settings(tier, "cpu", nbytes=FILL_NBYTES, seconds=1)
    assert found == (KvikioSettings(num_threads=32, task_nbytes=4 * 2**20, is_direct=False), 3.0)


def test_the_profile_keeps_them_for_runs(tmp_path: Path) -> None:
    measured = KvikioSettings(num_threads=8, task_nbytes=2**17, is_direct=False)
    path = tmp_path / "profile.json"
    write_profile(replace(DEFAULT_CUDA, kvikio=measured), path)
    profile = read_profile(path)
    assert profile.kvikio == measured
    assert _transfer_config(profile).kvikio == measured
    assert _transfer_config(None).kvikio == KvikioSettings()
    path.write_text(path.read_text().replace('"is_direct": false', '"is_direct": 0'))
    with pytest.raises(InvalidOptionError, match=r"kvikio\.is_direct: 0 is neither true nor false"):
        read_profile(path)
