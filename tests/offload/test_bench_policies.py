"""``offload bench policies`` on a tiny trace."""

import json
from pathlib import Path

import pytest

from offload.bench import policies
from offload.bench.bookkeeping import Replay, time_policy
from offload.bench.policies import Sizes, bench_policies, kv_policies
from offload.render import bench_tables
from simulators.kv_trace.formats import write_kv_trace
from simulators.kv_trace.generate import ZipfWorkload
from tests.offload.test_cli import complaint, offload
from tests.offload.test_render import shown
from tiers.errors import TraceError
from tiers.eviction.registry import POLICIES

SIZES = Sizes(slots=40, levels={"device": 16, "host": 24, "nvme": 64}, repeats=1)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "zipf.jsonl"
    write_kv_trace(path, ZipfWorkload(num_requests=200, num_documents=60, document_blocks=3).trace())
    return path


def test_every_part_has_its_rows_and_aims(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = Replay.read(trace, SIZES.levels)
    monkeypatch.setattr(policies, "WHOLE", len(replay.references))
    ticks: list[tuple[int, int]] = []
    data = bench_policies(trace, sizes=SIZES, progress=lambda *tick: ticks.append(tick))
    assert json.loads(json.dumps(data)) == data
    assert data["trace"] == str(trace)
    assert data["requests"] == 200
    assert data["references"] == len(replay.references)
    assert {"hardware", "command", "seed"} <= data.keys()
    rows = {row["name"]: row for row in data["rows"]}
    assert len(rows) == len(data["rows"]) == len(ticks) == ticks[-1][1]
    alone = [f"{name} alone" for name in kv_policies()]
    replays = [f"{name}, a replay" for name in ("lru", "arc", "s3fifo")]
    blocks = [f"{name}, held for a block" for name in ("lru", "arc", "s3fifo")]
    assert list(rows) == [*alone, *replays, *blocks, "offload simulate --help"]
    assert all(row["ours"] > 0 for row in rows.values())
    assert rows["lru alone"]["ratio_to_aim"] == rows["lru alone"]["ours"] / 1e6
    assert rows["lru alone"]["hit_ratio"] == time_policy("lru", 40, replay.references)[1] / len(replay.references)
    assert rows["fifo alone"]["aim"] is rows["fifo alone"]["ratio_to_aim"] is None
    assert rows["arc, a replay"]["ratio_to_aim"] == 3.0 / rows["arc, a replay"]["ours"]
    assert rows["arc, a replay"]["hit_ratio"] > rows["arc alone"]["hit_ratio"], "it has more slots"
    assert rows[blocks[0]]["ratio_to_aim"] == 300 / rows[blocks[0]]["ours"]
    part = float(rows[blocks[0]]["note"].split()[0])
    assert 0 < part < rows[blocks[0]]["ours"]
    assert rows["offload simulate --help"]["aim"] == 1.0
    assert ["benchmark", "unit", "ours", "aim", "to", "aim", "hits"] in shown(bench_tables(data))


def test_another_trace_has_no_aim_for_its_replay(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "kv_policies", list)
    monkeypatch.setattr(policies, "MOST_SECONDS", {"lru": 1.5})
    replay, block, _ = bench_policies(trace, sizes=SIZES)["rows"]
    assert replay["aim"] is replay["ratio_to_aim"] is None
    assert block["aim"] == 300


def test_policies_are_those_of_blocks_without_layers() -> None:
    names = kv_policies()
    assert {"lru", "s3fifo", "arc", "lfu", "two_queue", "lirs", "w_tinylfu", "prefix_depth"} <= set(names)
    assert len({POLICIES[name] for name in names}) == len(names)
    assert not {"plec", "next_use", "per_layer_lru"} & set(names)


def test_bad_input(tmp_path: Path) -> None:
    ran = offload("bench", "policies", "--trace", "nosuch.jsonl", cwd=tmp_path)
    assert ran.returncode == 2
    assert "nosuch.jsonl" in complaint(ran)
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"timestamp": 0, "input_length": 0, "output_length": 1, "hash_ids": []}\n')
    with pytest.raises(TraceError, match="has no references to blocks; name another"):
        Replay.read(empty, SIZES.levels)
