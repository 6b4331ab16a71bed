"""``offload report`` as a real process, on what the other commands really printed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offload.report.results import read_result
from tests.offload.report.kit import Page
from tests.offload.test_cli import ENVIRONMENT, complaint, offload
from tiers.errors import InvalidOptionError

SCENARIO = """
hardware: rtx4090
model: smollm2-135m
workload: {kind: chat, num_requests: 60, block_tokens: 64, seed: 7}
tiers: {device: 64MiB, host: 64MiB}
policies: [lru, arc]
"""
BENCH = {
    "hardware": {"processor": "a <b>fast</b> one", "cores": 2, "memory_bytes": 2**30},
    "command": "offload bench io --json",
    "seed": 0,
    "rows": [
        {"name": "read 1MiB", "unit": "GiB/s", "ours": 1.25, "peer": 1.0, "peer_name": "fio", "ratio_to_peer": 1.25},
        {"name": "read 1MiB", "unit": "GiB/s", "ours": 1.5, "limit": 2.0, "ratio_to_limit": 0.75, "windows": [1, 2]},
        {"name": "<script>alert(1)</script>", "unit": "us", "ours": None, "ratio_to_peer": 2},
    ],
}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    ran = offload("simulate", "s.yaml", "--json", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    path = folder / "s.json"
    path.write_text(ran.stdout, encoding="utf-8")
    return path


def report(*arguments: str | Path, cwd: Path) -> Page:
    """The page of a report that has to come about."""
    ran = offload("report", *map(str, arguments), "-o", "out.html", "--json", cwd=cwd)
    assert (ran.returncode, ran.stderr) == (0, "")
    said = json.loads(ran.stdout)
    page = Page((cwd / "out.html").read_text(encoding="utf-8"))
    assert (said["out"], said["bytes"]) == ("out.html", (cwd / "out.html").stat().st_size)
    assert said["plots"] == len(page.plots) == len(set(page.plots))
    return page


def figures(page: Page) -> str:
    """All scripts but Plotly's own."""
    return "\n".join(page.scripts[1:])


def test_simulation(simulated: Path, tmp_path: Path) -> None:
    page = report(simulated, cwd=tmp_path)
    data = json.loads(simulated.read_text(encoding="utf-8"))
    for row in data["rows"]:
        assert row["policy"] in page.cells
        assert f"{row['hit_ratio']:.1%}" in page.cells
        assert f"{row['ttft_p99_s']:,.3f}" in page.cells
        assert str(row["ttft_percentiles_s"]["95"]) in figures(page)
    for word in ("offload simulate s.yaml", "rtx4090", "smollm2-135m", "seed\n7\n", "device 64MiB, host 64MiB"):
        assert word in page.read
    for title in (
        "Hit ratio by policy",
        "Gap to Belady",
        "Time to first token",
        "Found, lost and out of reach",
        "Hits by reuse distance",
        "Lost to Belady by place in the prompt",
        "Bytes per link",
        "Where the time goes",
        "What happened when: lru",
        "What happened when: belady",
    ):
        assert title in page.read
    assert page.meta["viewport"] == "width=device-width, initial-scale=1"


def test_a_page_asks_the_network_for_nothing(simulated: Path, tmp_path: Path) -> None:
    page = report(simulated, cwd=tmp_path)
    assert page.fetched == []
    assert page.meta["Content-Security-Policy"].startswith("default-src 'none';")
    assert len(page.scripts[0]) > 1e6  # Plotly itself
    assert "http" not in figures(page)


def test_same_results_same_page(simulated: Path, tmp_path: Path) -> None:
    report(simulated, cwd=tmp_path)
    first = (tmp_path / "out.html").read_bytes()
    report(simulated, cwd=tmp_path)
    assert (tmp_path / "out.html").read_bytes() == first


def test_sweep(tmp_path: Path) -> None:
    text = SCENARIO.replace("host: 64MiB", "host: [64MiB, 96MiB]").replace("hardware: rtx4090", "hardware: [t4, a100]")
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    ran = offload("simulate", "s.yaml", "--sweep", "--out", "s.json", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    page = report("s.json", cwd=tmp_path)
    rows = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["rows"]
    assert all(f"{row['hit_ratio']:.1%}" in page.cells for row in rows)
    for hardware in ("t4", "a100"):
        assert f"Generated tokens per second against host tier: hardware {hardware}" in page.read
    assert "Hit ratio against host tier\n" in page.read  # the same on both machines
    assert "t4 or a100" in page.read
    assert "device 64MiB, host 64MiB or 96MiB" in page.read
    assert '"x":[0.0625,0.09375]' in figures(page)


def test_unfinished_sweep_says_so(simulated: Path, tmp_path: Path) -> None:
    data = json.loads(simulated.read_text(encoding="utf-8"))
    (tmp_path / "part.json").write_text(json.dumps({**data, "cells": 9}), encoding="utf-8")
    assert "3 of 9 cells" in report("part.json", cwd=tmp_path).read


def test_benchmark_and_simulation_on_one_page(simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(BENCH), encoding="utf-8")
    page = report("bench.json", simulated, cwd=tmp_path)
    assert "Offload report of 2 results" in page.read
    assert "offload bench io --json" in page.read
    assert "a <b>fast</b> one" in page.read  # as text, not as a tag
    assert "<script>alert(1)</script>" in page.cells
    assert {"1.25", "0.75", "fio", "–"} <= set(page.cells)
    assert "read 1MiB (2)" in figures(page)
    assert "alert(1)" in figures(page)
    assert "<script>alert" not in figures(page)


def test_run(tiny_llama: Path, tmp_path: Path) -> None:
    ran = offload("run", str(tiny_llama), "--prompt-ids", "5,6,7", "--max-new-tokens", "4", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    data = json.loads(ran.stdout)
    (tmp_path / "run.json").write_text(ran.stdout, encoding="utf-8")
    page = report("run.json", cwd=tmp_path)
    assert f"{data['decode_tokens_per_s']:,.2f}" in page.cells
    assert data["command"] in page.read
    assert "--prompt-ids 5,6,7" in page.read
    assert "Memory of each tier" in page.read


ROW = {"policy": "lru", "hit_ratio": 0, "tokens_per_s": 1, "ttft_s": 1, "bytes": 1, "stall_s": 0, "belady_gap": None}
RUN: dict[str, Any] = {"token_ids": [], "tiers": {}, "links": {}}
RUN |= dict.fromkeys(("prefill_s", "decode_tokens_per_s", "hit_ratio", "stall_s", "roofline_s", "efficiency"), 1)
TIMELINE = {"bin_s": 1, "busy": {"compute": [1]}, "levels": {}, "counts": {}}
COUNTS = {"up_to": [0], "asked": [1], "hits": [0], "ideal_hits": [1], "lost": [1], "won": [0]}
BY = {"reuse_distance": COUNTS, "prefix_depth": COUNTS, "session_age_s": {**COUNTS, "up_to": [None]}}
GAP = {"accesses": 2, "cold": 1, "hits": 0, "ideal_hits": 1, "lost": 1, "won": 0, "block_bytes": 64, "by": BY}
INFO = {"requests": 1, "accesses": 2, "unique_blocks": 2, "ideal_hit_ratio": 0.5}
BAD: list[tuple[Any, str]] = [
    ("{", "is no JSON; name a file that --json wrote"),
    ([1], "is no answer of 'offload simulate', 'bench', 'run', 'trace info' or 'tune' with --json"),
    ({"rows": []}, "is no answer of"),
    ({"rows": [{"policy": "lru"}]}, "rows[0].hit_ratio is missing"),
    ({"rows": [{"name": "a", "unit": "s", "ours": "fast"}]}, "rows[0].ours: 'fast' is no number"),
    ({"rows": [{"name": 3, "unit": "s", "ours": 1}]}, "rows[0].name: 3 is no text"),
    ({"rows": [{**ROW, "tiers": "large"}]}, "rows[0].tiers: 'large' is no mapping"),
    ({"rows": [{**ROW, "links": {"nvme": "many"}}]}, "rows[0].links.nvme: 'many' is no number"),
    ({"rows": [ROW, {**ROW, "batch": "2"}]}, "rows[1].batch: '2' is no number"),
    ({"token_ids": [], "tiers": {"device": 4}, "links": {}}, "prefill_s is missing"),
    ({**RUN, "tiers": {"device": 4}}, "tiers: is no mapping of names to figures"),
    ({**RUN, "timeline": {"bin_s": 0}}, "timeline: has no bin_s above 0"),
    (
        {"rows": [{**ROW, "timeline": {"bin_s": 1, "busy": {"a": ["b"]}}}]},
        "rows[0].timeline.busy: is no mapping of lanes",
    ),
    ({"rows": [{**ROW, "timeline": {**TIMELINE, "slots": 3}}]}, "rows[0].timeline.slots: 3 is no mapping"),
    ({"rows": [{**ROW, "gap": {**GAP, "cold": "many"}}]}, "rows[0].gap.cold: 'many' is no whole number"),
    ({"rows": [{**ROW, "gap": {**GAP, "by": {}}}]}, "rows[0].gap.by.reuse_distance: is no table of numbers"),
    (
        {"rows": [{**ROW, "gap": {**GAP, "by": BY | {"prefix_depth": {**COUNTS, "up_to": [1, 2]}}}}]},
        "rows[0].gap.by.prefix_depth: has not as many numbers as buckets",
    ),
    (
        {"rows": [{**ROW, "gap": GAP}, {**ROW, "gap": {**GAP, "by": BY | {"prefix_depth": {**COUNTS, "up_to": [7]}}}}]},
        "rows have gaps of different traces",
    ),
    ({"traceEvents": [3]}, "traceEvents[0]: 3 is no event; name what --trace-out wrote"),
    ({"traceEvents": [{"ph": "X", "ts": 1}]}, "traceEvents[0]: has no 'ts' and 'dur'"),
    ({"traceEvents": [{"name": "process_name", "pid": 1}]}, "traceEvents[0]: names no process"),
    ({"rows": [{**ROW, "ttft_percentiles_s": {"half": 1}}]}, "rows[0].ttft_percentiles_s: 'half' is no percentage"),
    ({"rows": [{**ROW, "gap": {**GAP, "block_bytes": 0}}]}, "rows[0].gap.block_bytes: 0 is no size"),
    ({**INFO, "per_layer": [{"layer": 1, "overlap": "much"}]}, "per_layer[0].overlap: 'much' is no number"),
    ({"trials": [{"value": "good"}]}, "trials[0].value: 'good' is no number"),
    ({"trials": [{"value": 1, "settings": 2}]}, "trials[0].settings: 2 is no mapping"),
    ({"requests": 1, "accesses": 2, "unique_blocks": 2}, "ideal_hit_ratio is missing"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_what_is_no_result(content: Any, message: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(InvalidOptionError) as caught:
        read_result(bad)
    assert str(caught.value).startswith(f"{bad}: {message}")
    assert "\n" not in str(caught.value)


def test_one_bad_result_of_several(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    (tmp_path / "bench.json").write_text(json.dumps(BENCH), encoding="utf-8")
    ran = offload("report", "bench.json", "bad.json", "-o", "out.html", cwd=tmp_path)
    assert ran.returncode == 2
    assert complaint(ran).startswith("offload: bad.json: is no JSON; name a file that --json wrote")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "bench.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.json", "-o", "out.html"], "missing.json: No such file or directory; name a file that --json wrote"),
        (["bench.json", "-o", "nowhere/out.html"], "--out: nowhere does not exist"),
        (["bench.json", "-o", "."], "--out: . is a directory; name a file"),
        (["bench.json"], "'--out'"),
        (["-o", "out.html"], "RESULTS"),
    ],
)
def test_what_cannot_be_done(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(BENCH), encoding="utf-8")
    ran = offload("report", *arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert message in complaint(ran)
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_little_is_enough(tmp_path: Path) -> None:
    """Of a simulation that somebody else wrote, and says less."""
    (tmp_path / "a.json").write_text(json.dumps({"rows": [ROW, {**ROW, "policy": "arc"}]}), encoding="utf-8")
    assert "not recorded in this file" in report("a.json", cwd=tmp_path).read


def test_without_plotly(simulated: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['plotly.offline'] = None; "
        f"sys.argv = ['offload', 'report', {str(simulated)!r}, '-o', 'out.html']; "
        "from offload.cli import main; sys.exit(main())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert complaint(ran).endswith("pip install 'offload-runtime[report]'")
    assert list(tmp_path.iterdir()) == []


def test_columns_that_nobody_knew_of(tmp_path: Path) -> None:
    rows = [{**ROW, "energy_j": 1250.5, "price": 3}, {**ROW, "policy": "arc", "energy_j": 1300.25, "price": 3}]
    (tmp_path / "a.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    page = report("a.json", cwd=tmp_path)
    assert {"1,250.500", "3"} <= set(page.cells)
    assert "Energy j\n" in page.read
    assert "joules" in figures(page)
    assert "Price\n" not in page.read  # the same in every row: no plot


def test_many_results_on_one_page(simulated: Path, tmp_path: Path) -> None:
    """With a table of contents; of a trace's timeline the lanes are drawn."""
    events = [
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "nvme->device"}},
        {"name": "read", "ph": "X", "ts": 0.0, "dur": 5e5, "pid": 1, "tid": 0, "args": {}},
        {"name": "read", "ph": "X", "ts": 25e4, "dur": 5e5, "pid": 1, "tid": 1, "args": {}},
    ]
    info = {"requests": 2, "accesses": 9, "unique_blocks": 4, "ideal_hit_ratio": 0.5, "format": "lines"}
    layer = {"layer": 1, "overlap": 0.5, "popularity_recall": 0.25, "next_gate_recall": None}
    trials = [{"value": 3, "settings": {"window": 1}}, {"value": None}, {"value": 2.5, "settings": {"window": 4}}]
    files = {
        "spans": {"traceEvents": events},
        "info": {**info, "per_layer": [layer]},
        "tune": {"trials": trials, "objective": "seconds", "direction": "minimize"},
        "bench": BENCH,
    }
    for name, data in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    page = report(simulated, *(f"{name}.json" for name in files), cwd=tmp_path)
    assert "Offload report of 5 results" in page.read
    for title in ("Simulation: s.yaml", "Timeline: spans.json", "Trace: info.json", "Tuning: tune.json"):
        assert page.read.count(f"{title}\n") == 2  # in the contents, and as a heading
    assert "The best of 3 trials reaches seconds 2.5 with window 4." in page.read
    assert "3 (best)" in page.cells
    assert "Of 9 accesses 55.6% ask for something again; the ideal cache finds 50.0%." in page.read
    assert "guessed from popularity" in page.read
    assert "100.0%" in page.cells  # the link was busy all the time
