"""The benchmark of generation, on a model small enough for a test."""

from pathlib import Path

from offload.bench.kv import Sizes, _Bench, lookup_row

SMALL = Sizes(
    short_prompt=20,
    short_new=3,
    long_context=1024,
    long_new=3,
    block_context=1024,
    rounds=1,
    fio_s=0.2,
    most_file_nbytes=16 * 2**20,
)


def test_rows_compare_with_transformers_and_the_drive(tiny_llama: Path, tmp_path: Path) -> None:
    """Tokens are the same in every row, and a spilled cache misses bytes that the roofline counts."""
    bench = _Bench(tiny_llama, tmp_path / "nvme", SMALL, seed=0, tick=lambda: None)
    (resident,) = bench.resident_rows()
    assert resident["same_tokens"] is True
    assert resident["ratio_to_peer"] == resident["ours"] / resident["peer"]  # type: ignore[operator]
    (spilled,) = bench.kv_rows()
    assert spilled["same_tokens"] is True
    assert spilled["missed_bytes_per_token"] > 0  # type: ignore[operator]
    assert [row["same_tokens"] for row in bench.block_rows()] == [True] * 4
    assert not list((tmp_path / "nvme").glob("*")), "nothing is left on the drive"


def test_lookup_is_measured() -> None:
    row = lookup_row(repeats=10)
    assert row["unit"] == "us"
    assert row["ours"] > 0  # type: ignore[operator]
