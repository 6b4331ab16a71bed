"""``offload bench csd``, made small."""

from pathlib import Path

import pytest

from offload.bench import csd_run
from offload.bench.csd import bench_csd
from offload.bench.csd_frontier import FrontierSizes
from offload.bench.csd_run import RunSizes, run_rows
from offload.simulation.drive_setup import csd_setup
from tests.offload.test_cli import complaint, offload
from tiers.errors import InvalidOptionError

SIZES = RunSizes(prompt=160, steps=3)


def test_runs_on_a_drive(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csd_run, "WAYS", (*csd_run.WAYS[:2], csd_run.Way("in-storage", write_back=4)))
    exact, sparse, delayed = run_rows(smollm2, tmp_path / "d", csd_setup().drive, SIZES)
    assert exact["name"] == "in-storage, 160 tokens"
    assert exact["same_tokens"]
    assert exact["attention_error"] is None
    headers = 30 * (64 + 32 + 8 + 9 * 4)
    assert exact["link_bytes"] == exact["link_bytes_least"] + headers
    assert sparse["link_bytes"] == exact["link_bytes"]
    assert sparse["attention_error"] > 0
    assert 0 < sparse["pages"] < exact["pages"]
    # With so few tokens a step waits mostly for pages that are programmed in the background, whenever that happens.
    assert min(sparse["modelled_ms"], exact["modelled_ms"]) > 0
    assert delayed["name"] == "in-storage, 4 tokens a write, 160 tokens"
    assert delayed["same_tokens"]
    # Within three steps one write of four tokens in each layer, in place of a token with each query.
    tokens = 30 * (64 + 32 + 4 * 2 * 3 * 64 * 4) - 3 * 30 * 2 * 3 * 64 * 4
    assert delayed["link_bytes"] * 3 == pytest.approx(exact["link_bytes"] * 3 + tokens)
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_all_parts_are_there(smollm2: Path, tmp_path: Path) -> None:
    few = FrontierSizes(tokens=192, steps=2, needles=1, needle_tokens=96, compressions=(4,), variants=("group_mass",))
    rows = bench_csd(smollm2, tmp_path, sizes=SIZES, frontier=few)["rows"]
    for key in ("paper", "peer", "modelled_ms", "bytes_read"):
        assert any(row.get(key) for row in rows), key


def test_bad_input(tmp_path: Path) -> None:
    ran = offload("bench", "csd", "--set", "channels", cwd=tmp_path)
    assert ran.returncode == 2
    assert "setting 'channels' has no value" in complaint(ran)
    ran = offload("bench", "csd", "--text", "nosuch.txt", cwd=tmp_path)
    assert ran.returncode == 2
    assert "--text nosuch.txt: cannot be read" in complaint(ran)
    for settings, drive, said in (({"chanels": "3"}, "instattention", "chanels"), ({}, "nosuch", "nosuch")):
        with pytest.raises(InvalidOptionError, match=said):
            bench_csd(tmp_path, tmp_path, settings=settings, drive=drive)
