"""``offload trace`` of requests, as a real process."""

import json
from pathlib import Path

from simulators.kv_trace.formats import open_kv_trace
from tests.offload.test_cli import offload


def test_a_trace_of_requests_is_explained_and_converted(tmp_path: Path) -> None:
    told = offload("trace", "info", "mooncake_conversation", "--slots", "2000", "--json", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    figures = json.loads(told.stdout)
    assert (figures["requests"], figures["accesses"], figures["unique_blocks"]) == (3000, 80_619, 55_287)
    assert 0.2 < figures["ideal_hit_ratio"] < 0.32
    ran = offload("trace", "convert", "mooncake_conversation", "t.jsonl.gz", "--json", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["bytes"] == (tmp_path / "t.jsonl.gz").stat().st_size
    converted = list(open_kv_trace(tmp_path / "t.jsonl.gz").requests)
    assert converted == list(open_kv_trace(Path("mooncake_conversation")).requests)
    shown = offload("trace", "info", "t.jsonl.gz", cwd=tmp_path)
    assert "80,619 accesses to 55,287 blocks of 512 tokens; a perfect cache of any size" in " ".join(
        shown.stdout.split()
    )


def test_a_line_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"hash_ids": [1], "timestamp": 1}\n', encoding="utf-8")
    ran = offload("trace", "info", "t.jsonl", cwd=tmp_path)
    complaint = "offload: t.jsonl:1: 'input_length' is missing; the line has 'hash_ids', 'timestamp'\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", complaint)
