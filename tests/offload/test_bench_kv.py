"""The benchmark of generation, on a model small enough for a test."""

from pathlib import Path

import pytest

from offload.bench import memory_limit
from offload.bench.kv import Sizes, bench_kv, lookup_row
from offload.bench.kv_run import Spec, limited_kv_row
from offload.render import bench_tables

SMALL = Sizes(
    short_prompt=20,
    short_new=3,
    streamed_prompt=8,
    long_context=1024,
    block_context=1024,
    rounds=1,
    windows=2,
    window_steps=2,
    fio_s=0.1,
    most_file_nbytes=16 * 2**20,
    limited_new=0,
)


def test_rows_compare_with_transformers_and_the_drive(tiny_llama: Path, tmp_path: Path) -> None:
    """Tokens are the same in every row, and what is streamed misses bytes that the roofline counts."""
    told: list[tuple[int, int]] = []
    result = bench_kv(
        tiny_llama, tmp_path / "nvme", progress=lambda done, total: told.append((done, total)), sizes=SMALL
    )
    resident, weights, *spilled, lookup = result["rows"]
    assert resident["ratio_to_peer"] == resident["ours"] / resident["peer"]
    assert all(row["same_tokens"] for row in (resident, weights, *spilled))
    assert weights["peer_name"].startswith("accelerate")
    assert len(spilled) == 5
    for row in (weights, *spilled):
        assert row["missed_bytes_per_token"] > 0
        assert len(row["time_over_roofline_by_window"]) == SMALL.windows
        assert len(row["drive_gib_s"]) == SMALL.windows + 1
        assert row["time_over_roofline"] > 0
    assert lookup["unit"] == "us"
    assert told[-1] == (8, 9)
    assert not (tmp_path / "nvme").exists(), "nothing is left on the drive"


@pytest.mark.slow
def test_a_row_in_a_memory_cgroup(tiny_llama: Path, tmp_path: Path) -> None:
    """Ours and accelerate's, each in a process and a cgroup of its own; or one line on why there is none."""
    spec = Spec("ours", str(tiny_llama), [5, 6, 7], 3, str(tmp_path / "runs"), 2**30)
    row = limited_kv_row("limited", spec, 2**30, lambda: 1e9)
    if row["memory_limit_bytes"] is None:
        assert row["note"].startswith("no memory cgroup can be made here")
        return
    assert row["same_tokens"]
    assert row["ratio_to_peer"] == pytest.approx(row["ours"] / row["peer"])
    assert 0 < row["cgroup_peak_bytes"] <= 2**30
    row = limited_kv_row("far too little", spec, 2**25, lambda: 1e9)
    assert "ours" not in row
    assert row["note"].startswith("ours: ")
    assert "\n" not in row["note"]


def test_without_cgroups_a_row_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "_ROOT", tmp_path / "nowhere")
    spec = Spec("ours", "model", [], 3, str(tmp_path), 0)
    row = limited_kv_row("limited", spec, 2**30, lambda: 1e9)
    assert row == {"name": "limited", "unit": "tokens/s", "memory_limit_bytes": None, "note": row["note"]}
    assert (
        row["note"] == f"no memory cgroup can be made here ({tmp_path}/nowhere: No such file or directory); run as root"
    )
    assert list(bench_tables({"rows": [row]})), "it can be shown"


def test_lookup_is_measured() -> None:
    row = lookup_row(repeats=10)
    assert row["unit"] == "us"
    assert row["ours"] > 0
