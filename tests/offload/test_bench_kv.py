"""The benchmark of generation, on a model small enough for a test."""

from pathlib import Path

from offload.bench.kv import Sizes, bench_kv, lookup_row

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
    assert told[-1] == (8, 8)
    assert not (tmp_path / "nvme").exists(), "nothing is left on the drive"


def test_lookup_is_measured() -> None:
    row = lookup_row(repeats=10)
    assert row["unit"] == "us"
    assert row["ours"] > 0
