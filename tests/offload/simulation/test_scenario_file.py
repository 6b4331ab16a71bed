"""What a scenario file says, and what is said of one that is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from offload.simulation.scenario_file import SHIPPED, load_scenario
from offload.simulation.sweep import read_sweep
from prefetch.load_gate import Gate
from simulators.profile import DEFAULT
from simulators.profile_file import write_profile
from simulators.scenario import run_scenario
from tiers.errors import BudgetError, InvalidOptionError, OffloadError, TraceError

GOOD: dict[str, Any] = {
    "hardware": "a100",
    "model": "llama-3.1-8b",
    "workload": {"kind": "zipf", "num_requests": 60, "num_documents": 20, "document_blocks": 4},
    "tiers": {"device": "1GiB", "host": "1GiB", "nvme": "2GiB"},
    "policies": ["lru", "arc"],
}


def write(folder: Path, settings: dict[str, Any]) -> Path:
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def test_rows_of_a_scenario(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    seen: list[tuple[int, int]] = []
    rows = run_scenario(load_scenario(path), lambda done, total: seen.append((done, total)))
    assert [row["policy"] for row in rows] == ["lru", "arc", "belady"]
    for row in rows:
        assert row.keys() >= {"policy", "hit_ratio", "tokens_per_s", "ttft_s", "bytes", "stall_s", "belady_gap"}
        assert 0 < row["hit_ratio"] <= rows[-1]["hit_ratio"]
        assert row["belady_gap"] >= 0
        assert row["tokens_per_s"] <= row["tokens_per_s_without_stall"]
        assert row["tokens_per_s"] <= rows[-1]["tokens_per_s"]
        assert row["bytes"] == sum(row["links"].values())
    assert rows[-1]["belady_gap"] == pytest.approx(0)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert run_scenario(load_scenario(path)) == rows


def test_requests_that_come_when_the_trace_says(tmp_path: Path) -> None:
    """Sixty in a minute are no trouble; a hundred times as fast they wait for each other."""
    rows = {}
    for speed in (0.5, 100.0):
        path = write(tmp_path, {**GOOD, "policies": ["lru"], "batch": 4, "arrivals": "trace", "speed": speed})
        rows[speed], _ = run_scenario(load_scenario(path))
        assert list(rows[speed]["queue_percentiles_s"].values()) == sorted(rows[speed]["queue_percentiles_s"].values())
    assert rows[0.5]["queue_s"] == pytest.approx(0, abs=0.1)
    assert rows[100.0]["queue_s"] > 1
    assert rows[100.0]["ttft_p99_s"] >= rows[100.0]["queue_p99_s"] > rows[0.5]["ttft_p99_s"]
    closed, _ = run_scenario(load_scenario(write(tmp_path, {**GOOD, "policies": ["lru"]})))
    assert closed["queue_p99_s"] == 0


def test_the_sooner_way_is_never_later(tmp_path: Path) -> None:
    """On a small drive and a fast device: to compute again is sooner for some blocks, and never for the worse."""
    settings = {**GOOD, "hardware": "h100", "model": "smollm2-135m", "policy": "lru"}
    settings |= {"tiers": {"device": "400MiB", "nvme": "2GiB"}, "policies": ["lru"]}
    times = {}
    for gate in Gate:
        row = run_scenario(load_scenario(write(tmp_path, {**settings, "gate": gate.value})))[0]
        times[gate] = row["ttft_s"]
        assert (row["recomputed"] > 0) == (gate is not Gate.LOAD)
    assert times[Gate.SOONER] <= min(times[Gate.LOAD], times[Gate.RECOMPUTE]) * 1.001


def test_what_a_token_costs(tmp_path: Path) -> None:
    """Pageable memory is slower and keeps a core busy; a machine that is bought for longer is cheaper."""
    rows = {}
    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "pageable": {"host_memory": "pageable"},
        "direct": {"storage": "gds", "host_memory": "pinned"},
        "bounced": {"storage": "bounce"},
        "longer": {"price": {"years": 6, "usd_per_kwh": 0.15}},
    }
    for name, change in settings.items():
        rows[name] = run_scenario(load_scenario(write(tmp_path, {**GOOD, "policies": ["lru"], **change})))[0]
        assert rows[name]["hit_ratio"] == rows["plain"]["hit_ratio"]
        assert sum(rows[name]["energy_j"].values()) > 0
    assert rows["pageable"]["stall_s"] > rows["plain"]["stall_s"]
    assert rows["pageable"]["energy_j_per_token"] > rows["plain"]["energy_j_per_token"]
    assert rows["direct"]["energy_j"]["cores"] < rows["bounced"]["energy_j"]["cores"]
    assert rows["longer"]["energy_j_per_token"] == rows["plain"]["energy_j_per_token"]
    assert rows["longer"]["price_per_million_tokens"] < rows["plain"]["price_per_million_tokens"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"storage": "bounce"}, "storage: bounce needs 'host' in the profile 'default'"),
        ({"host_memory": "pageable"}, "host_memory: pageable needs 'host' in the profile 'default'"),
        ({"price": {"years": 2}}, "price: the profile 'default' has no prices; add 'price' to it, or leave price out"),
    ],
)
def test_what_an_older_profile_does_not_know(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_profile(DEFAULT, tmp_path / "old.json")
    settings = {**GOOD, "hardware": "old.json", "policies": ["lru"]}
    row = run_scenario(load_scenario(write(tmp_path, settings)))[0]
    assert row["energy_j_per_token"] is row["price_per_million_tokens"] is None
    with pytest.raises(InvalidOptionError, match=message) as error:
        load_scenario(write(tmp_path, {**settings, **change}))
    assert "\n" not in str(error.value)


OF_POLICIES = sorted(
    {path.stem for path in SHIPPED.glob("*.yaml")}
    - {"mooncake_tune", "drives_opt13b", "drives_sweep", "experts_mixtral"}
)


@pytest.mark.parametrize("name", OF_POLICIES)
def test_scenarios_that_ship_can_be_read(name: str) -> None:
    cells = read_sweep(Path(name)).cells
    assert "lru" in {cell.head["policy"] for cell in cells}
    expected = {"device", "nvme"} if name == "chat_jetson" else {"device", "host", "nvme"}
    assert all(set(cell.head["tiers"]) == expected for cell in cells)
    assert len(cells) == 60 or "sweep" not in name


@pytest.mark.parametrize(
    ("hardware", "cure"),
    [("a6000", "give it at most 35,479,617,536"), ("gtx1080ti", "choose another machine or a smaller model")],
)
def test_weights_and_blocks_have_to_fit_on_the_device(tmp_path: Path, hardware: str, cure: str) -> None:
    path = write(tmp_path, {**GOOD, "hardware": hardware, "tiers": {"device": "40GiB"}})
    with pytest.raises(InvalidOptionError, match=f"besides 16,059,990,016 of weights; '{hardware}' has .*; {cure}"):
        load_scenario(path)


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    line = '{"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [0, 1]}\n'
    (folder / "t.jsonl").write_text(line * 3, encoding="utf-8")
    path = write(folder, {**GOOD, "workload": {"trace": "t.jsonl", "requests": 2}})
    monkeypatch.chdir(tmp_path)
    rows = run_scenario(load_scenario(path))
    assert rows[0]["hit_ratio"] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hardwear": 1}, "unknown key 'hardwear'; did you mean 'hardware'?"),
        ({"tiers": {"device": "1GiB", "hots": "1GiB"}}, "unknown key 'tiers.hots'; did you mean 'host'?"),
        ({"tiers": {"device": "1GB/s"}}, "tiers.device: '1GB/s' is not a size; write it like 64MiB or 8GiB"),
        ({"tiers": {"device": "1gib"}}, "tiers.device: '1gib' is not a size; write 1GiB"),
        (
            {"tiers": {"device": "0"}},
            "tiers: 'device' has 0 bytes, less than one block of 512 tokens; give it at least 67",
        ),
        ({"tiers": {"host": "1GiB"}}, "tiers: 'device' is missing"),
        ({"tiers": None}, "tiers: None is no mapping"),
        ({"hardware": "rtx409"}, "'rtx409' is none of the profiles that ship, and no file; did you mean 'rtx4090'?"),
        ({"model": 7}, "model: 7 is no name; write one"),
        ({"gate": "sonner"}, "gate: 'sonner' is unknown; did you mean 'sooner'?"),
        ({"batch": 0}, "batch: 0 is no whole number from 1 up"),
        ({"arrivals": "tarce"}, "arrivals: 'tarce' is unknown; did you mean 'trace'?"),
        ({"arrivals": True}, "arrivals: True is unknown; known are closed, trace"),
        ({"arrivals": "trace", "speed": 0}, "speed: 0 is no number from 1e-06 up"),
        ({"speed": 2.0}, "speed: 2 is of no use where arrivals are closed; add arrivals: trace"),
        ({"storage": "gsd"}, "storage: 'gsd' is unknown; did you mean 'gds'?"),
        ({"storage": True}, "storage: True is unknown; known are gds, bounce"),
        ({"host_memory": "paged"}, "host_memory: 'paged' is unknown; did you mean 'pageable'?"),
        ({"price": 3}, "price: 3 is no mapping; write one 'key: value' a line below it"),
        ({"price": {"yers": 3}}, "unknown key 'price.yers'; did you mean 'years'?"),
        ({"price": {"years": 0}}, "price.years: 0 is too little; write a number above 0"),
        ({"price": {"utilisation": 2}}, "price.utilisation: 2.0 is no share; write one above 0, up to 1"),
        ({"price": {"usd_per_kwh": "cheap"}}, "price.usd_per_kwh: 'cheap' is no number from 0 up"),
        ({"policies": []}, "policies: [] is no list of names; write [lru, arc]"),
        ({"workload": {"kind": "zipff"}}, "workload.kind: 'zipff' is unknown; did you mean 'zipf'?"),
        ({"workload": {"kind": "zipf", "skw": 1}}, "unknown key 'workload.skw'; did you mean 'skew'?"),
        (
            {"workload": {"kind": "zipf", "num_requests": 1.5}},
            "workload.num_requests: 1.5 is no whole number from 0 up",
        ),
        ({"workload": {"kind": "zipf", "skew": "steep"}}, "workload.skew: 'steep' is no number from 0 up"),
        ({"workload": {"kind": "chat", "num_requests": 0}}, "'num_requests' of a workload is 0; it must be above 0"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_the_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path, {**GOOD, **change})
    with pytest.raises(InvalidOptionError) as error:
        load_scenario(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["hardware", "model", "workload", "tiers"])
def test_what_is_missing(tmp_path: Path, key: str) -> None:
    settings = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(InvalidOptionError, match=f"s.yaml: '{key}' is missing"):
        load_scenario(write(tmp_path, settings))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"policies": ["lur"]}, InvalidOptionError, "eviction policy 'lur' is unknown"),
        ({"tiers": {"device": "128MiB"}}, BudgetError, "the longest prompt needs 335,544,320; give it as many"),
        ({"workload": {"trace": "t.jsonl"}}, TraceError, "t.jsonl:2: 'timestamp' is missing"),
    ],
)
def test_what_is_found_out_when_it_runs(
    tmp_path: Path, change: dict[str, Any], kind: type[OffloadError], message: str
) -> None:
    line = '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0]}\n{"hash_ids": [1]}\n'
    (tmp_path / "t.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(kind, match=message):
        run_scenario(load_scenario(write(tmp_path, {**GOOD, **change})))
