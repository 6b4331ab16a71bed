"""The search: it finds what is best, goes on where it was, and begins with what did well elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from offload.simulation.scenario_file import load_scenario
from offload.tuning.tune import TuneOptions, tune
from simulators.scenario import Experiment
from tests.offload.tuning.scenarios import BLOCK, FEW, write_hot
from tiers.errors import InvalidOptionError

pytest.importorskip("optuna")

MOST_HITS = 10 / 24


def search(path: Path, **options: Any) -> dict[str, Any]:
    given = {"objective": "hit_ratio", "jobs": 1, "study": path.parent / "study.jsonl", **options}
    return tune(path, TuneOptions(**given), lambda *_: None)


def test_it_finds_the_policy_that_keeps_the_hot_set(tmp_path: Path) -> None:
    """In a fifth of the settings; the same seed finds the same ones, and the file it writes simulates as found."""
    path = write_hot(tmp_path)
    best = tmp_path / "best.yaml"
    answer = search(path, trials=16, seed=1, out=best)
    assert (answer["combinations"], len(answer["trials"]), answer["ended"]) == (84, 16, "done")
    assert answer["best"]["settings"]["policy"] == "lfu"
    assert answer["best"]["value"] == pytest.approx(MOST_HITS)
    row = answer["best"]["row"]
    equal = [trial["row"]["memory_bytes"] for trial in answer["trials"] if trial["value"] == answer["best"]["value"]]
    assert row["memory_bytes"] == min(equal)
    assert Experiment(load_scenario(best)).run("lfu").items() <= row.items()
    assert best.read_text(encoding="utf-8").startswith("# Found by 'offload tune ")
    again = search(path, trials=16, seed=1, study=tmp_path / "another.jsonl")
    assert again["trials"] == answer["trials"]


def test_the_least_memory_that_is_good_enough(tmp_path: Path) -> None:
    path = write_hot(tmp_path, policies=["lfu"], limits={"hit_ratio": 0.41})
    answer = search(path, objective="tiers.host", trials=21)
    assert (len(answer["trials"]), answer["best"]["value"]) == (21, 10 * BLOCK)
    assert answer["best"]["within_limits"]
    assert answer["best"]["scenario"]["tiers"]["host"] == f"{10 * BLOCK // 2**10}KiB"


def test_memory_beyond_a_limit_is_not_tried(tmp_path: Path) -> None:
    path = write_hot(tmp_path, limits={"memory_price": 10}, prices={"host": 10 * 2**30 / (8 * BLOCK)})
    answer = search(path, trials=50)
    assert len(answer["trials"]) == 5 * 4
    assert max(trial["row"]["tiers"]["host"] for trial in answer["trials"]) == 8 * BLOCK


def test_an_earlier_search_is_gone_on_with(tmp_path: Path) -> None:
    """Also one for another objective or over other ranges: what was simulated is not simulated again."""
    path = write_hot(tmp_path, **FEW)
    first = search(path, trials=3)
    assert (first["resumed"], len(first["trials"])) == (0, 3)
    second = search(path, trials=3)
    assert (second["resumed"], len(second["trials"])) == (3, 4)
    assert second["trials"][:3] == first["trials"]
    other = search(path, trials=1, objective="ttft_s")
    assert (other["taken_over"], len(other["trials"])) == (4, 4)
    assert {trial["source"] for trial in other["trials"]} == {"known"}
    assert other["direction"] == "minimize"
    wider = search(write_hot(tmp_path, **{**FEW, "policies": ["fifo", "lfu", "lru"]}), trials=9)
    assert (wider["taken_over"], len(wider["trials"])) == (4, 6)


def test_a_similar_search_begins_with_what_did_well(tmp_path: Path) -> None:
    """The nearer one of two, by machine; its best comes first, on this machine."""
    studies = tmp_path / "studies"
    studies.mkdir()
    search(write_hot(tmp_path, **{**FEW, "hardware": "a100"}), trials=4, study=studies)
    only_bad: dict[str, Any] = {"policies": ["fifo"], "tiers": FEW["tiers"]}
    search(write_hot(tmp_path, **{**only_bad, "hardware": "t4"}), trials=4, study=studies)
    assert len(list(studies.iterdir())) == 2
    answer = search(write_hot(tmp_path, **{**FEW, "hardware": "rtx4090"}), trials=2, seed=3, study=studies)
    assert (answer["resumed"], answer["taken_over"], answer["warm_started"]) == (0, 0, 1)
    begun = answer["trials"][0]
    assert (begun["source"], begun["row"]["hardware"], begun["row"]["policy"]) == ("warm start", "rtx4090", "lfu")
    assert (begun["row"]["tiers"]["host"], begun["value"]) == (12 * BLOCK, pytest.approx(MOST_HITS))


def test_an_interrupt_keeps_what_was_found(tmp_path: Path) -> None:
    path = write_hot(tmp_path, **FEW)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    options = TuneOptions(objective="hit_ratio", jobs=1, study=tmp_path / "study.jsonl", trials=4)
    answer = tune(path, options, stop)
    assert (answer["ended"], len(answer["trials"])) == ("interrupted", 2)
    assert search(path, trials=4)["resumed"] == 2


def test_settings_that_cannot_run_are_left_out(tmp_path: Path) -> None:
    """The longest prompt has two blocks, for which the first device is too small."""
    path = write_hot(tmp_path, policies=["lru"], tiers={"device": [BLOCK, 2 * BLOCK], "host": 4 * BLOCK})
    answer = search(path, trials=4)
    assert (len(answer["trials"]), answer["refused"]) == (1, 1)
    path = write_hot(tmp_path, policies=["lru", "lfu"], tiers={"device": BLOCK})
    with pytest.raises(
        InvalidOptionError, match=r"no setting that was tried can run, such as .*the longest prompt needs"
    ):
        search(path, trials=4)


def test_limits_that_nothing_keeps(tmp_path: Path) -> None:
    out = tmp_path / "best.yaml"
    path = write_hot(tmp_path, **FEW, limits={"hit_ratio": 0.9})
    with pytest.raises(InvalidOptionError, match="none of 4 settings tried is within them; the nearest has hit_ratio"):
        search(path, trials=4, out=out)
    assert not out.exists()


def test_paths_lead_from_the_best_scenario_to_the_trace(tmp_path: Path) -> None:
    folder, out = tmp_path / "lab", tmp_path / "out" / "best.yaml"
    folder.mkdir()
    out.parent.mkdir()
    answer = search(write_hot(folder, **FEW), trials=1, out=out)
    assert answer["best"]["scenario"]["workload"]["trace"] == "../lab/hot.jsonl"
    load_scenario(out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not a study\n", "is no study of 'offload tune'; name another file"),
        ('{"study_name": "somebody else\'s"}\n', "is no study of 'offload tune'"),
        ("[1, 2]\n", "is no study"),
        ('{"op_code": 0, "study_name": "offload tune 9: ab"}\n', "is a study of version 9, and this is version 1"),
    ],
)
def test_a_file_that_is_something_else_stays_as_it_is(tmp_path: Path, text: str, message: str) -> None:
    study = tmp_path / "study.jsonl"
    study.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidOptionError, match=message):
        search(write_hot(tmp_path, **FEW), trials=1)
    assert study.read_text(encoding="utf-8") == text


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    """As a process leaves it that was killed."""
    path = write_hot(tmp_path, **FEW)
    search(path, trials=2)
    study = tmp_path / "study.jsonl"
    study.write_bytes(study.read_bytes() + b'{"op_code": 4, "wor')
    assert len(search(path, trials=4)["trials"]) == 4
    for line in study.read_text(encoding="utf-8").splitlines():
        json.loads(line)
