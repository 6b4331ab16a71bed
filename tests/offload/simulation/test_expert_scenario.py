"""``offload simulate`` with the experts of a mixture, and one file whose classes also decide in a real run."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload.config_file import read_config_file
from offload.report.write import write_report
from offload.simulation.expert_rows import simulate_experts
from offload.simulation.expert_scenario import ExpertCases
from offload.simulation.scenario_file import SHIPPED
from offload.simulation.simulate import simulate_one, simulate_sweep
from simulators.routing_generator import generate_routing
from tests.offload.simulation.test_scenario_docs import PAGE
from tests.offload.test_cli import offload
from tests.offload.zoo import save_model
from tiers.errors import InvalidOptionError, OffloadError

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "dtype": "float32",
}
SCENARIO = """
hardware: rtx4090
model: small.json
experts: {requests: 2, prompt_tokens: 6, new_tokens: 10, seed: 1}
tiers: {device: 50%, host: 25%}
policies: [lru, expected_use]
predictors: [none, popularity, next_gate]
"""
MINE = '''
from pathlib import Path

from prefetch.base import Prediction
from tiers.eviction.lru import LRUPolicy


class Mine(LRUPolicy):
    pass


class First:
    """Expects the first experts of the next layer, and leaves a mark of what it said."""

    def __init__(self, keys, top_k):
        self.keys, self.top_k = keys, top_k

    def predict(self, step):
        ahead = self.keys[step + 1][: self.top_k] if step + 1 < len(self.keys) else []
        with Path("predicted.txt").open("a") as file:
            print(*ahead, file=file)
        return [Prediction(ahead, 1.0, 1)] if ahead else []


class Bad(First):
    def predict(self, step):
        return [Prediction([step], 0.8, 1)]
'''


def _nothing(*_: int) -> None:
    """Progress of a test."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    return tmp_path


def rows_of(folder: Path, text: str = SCENARIO, **options: Any) -> list[dict[str, Any]]:
    (folder / "s.yaml").write_text(text, encoding="utf-8")
    rows: list[dict[str, Any]] = simulate_experts(folder / "s.yaml", _nothing, **options)["rows"]
    return rows


def test_a_row_for_each_policy_and_predictor_and_two_bounds(folder: Path) -> None:
    rows = rows_of(folder)
    pairs = [(policy, name) for policy in ("lru", "expected_use") for name in ("none", "popularity", "next_gate")]
    assert [(row["eviction"], row["predictor"]) for row in rows[:-2]] == pairs
    assert [row["policy"] for row in rows[:2] + rows[-2:]] == ["lru", "lru + popularity", "belady", "perfect prefetch"]
    belady, perfect = rows[-2:]
    for row in rows:
        assert row["bytes"] == sum(row["links"].values())
        assert row["energy_j_per_token"] * 20 == pytest.approx(sum(row["energy_j"].values()))
        assert row["tokens_per_s"] <= perfect["tokens_per_s"]
        assert row["predictor"] != "none" or row["hit_ratio"] <= perfect["hit_ratio"]
    assert rows[0]["hit_ratio"] <= belady["hit_ratio"]
    # 4 layers of 8 experts of 3 matrices of 64 x 128 floats.
    assert rows[0]["tiers"] == {"device": 16 * 3 * 64 * 128 * 4, "host": 8 * 3 * 64 * 128 * 4}
    assert rows_of(folder) == rows
    assert rows_of(folder, SCENARIO.replace("seed: 1", "seed: 2")) != rows


def test_a_trace_is_replayed(folder: Path) -> None:
    trace = generate_routing([(6, 10)] * 2, 4, 8, 2, seed=1)
    trace.save(folder / "trace.npz")
    recorded = SCENARIO.replace("{requests: 2, prompt_tokens: 6, new_tokens: 10, seed: 1}", "{trace: trace.npz}")
    made = rows_of(folder)
    assert [{**row, "fingerprint": 0} for row in rows_of(folder, recorded)] == [
        {**row, "fingerprint": 0} for row in made
    ]
    bare = replace(trace, gate_inputs=trace.gate_inputs[..., :0], gates=np.zeros((4, 8, 0), np.float32))
    bare.save(folder / "trace.npz")
    with pytest.raises(InvalidOptionError, match="predictors: next_gate asks the gates, and the trace holds neither"):
        rows_of(folder, recorded)
    kept = rows_of(folder, recorded.replace(", next_gate", ""))
    assert [row["hit_ratio"] for row in kept[:2]] == [row["hit_ratio"] for row in made[:2]]


def test_a_sweep_is_kept_and_reported(folder: Path) -> None:
    swept = SCENARIO.replace("device: 50%", "device: [25%, 50%, 100%]")
    with pytest.raises(InvalidOptionError, match=r"tiers.device: is a list; --sweep runs every combination"):
        rows_of(folder, swept)
    path, out = folder / "s.yaml", folder / "rows.json"
    answer = simulate_sweep(path, out, _nothing)
    assert (answer["cells"], len(answer["rows"])) == (24, 24)
    assert answer["rows"][8:16] == [{**row} for row in rows_of(folder)]
    path.write_text(swept, encoding="utf-8")
    before = out.read_bytes()
    assert simulate_sweep(path, out, _nothing) == answer
    assert out.read_bytes() == before
    lru = [row["hit_ratio"] for row in answer["rows"] if row["policy"] == "lru"]
    assert lru == sorted(lru)
    assert lru[-1] == 1.0
    page = folder / "page.html"
    write_report([out], page)
    text = page.read_text(encoding="utf-8")
    for shown in ("Hit ratio against device tier", "expected_use + next_gate", "perfect prefetch", "Fastest is"):
        assert shown in text
    one = folder / "one.json"
    path.write_text(SCENARIO, encoding="utf-8")
    one.write_text(json.dumps(simulate_one(path, _nothing)), encoding="utf-8")
    write_report([one], page)
    assert "Hit ratio" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("policies", "polices", "unknown key 'polices'; did you mean 'policies'"),
        ("small.json", "llama-3.1-8b", "model: 'llama-3.1-8b' has no experts; choose a mixture of experts"),
        ("seed: 1", "skwe: 1", "unknown key 'experts.skwe'; did you mean 'skew'"),
        ("seed: 1", "skew: 1.5", "the skew of a routing is 1.5; it must be from 0 to 1"),
        ("seed: 1", "trace: t.npz", "experts.requests: is of made-up routing; leave it or the trace out"),
        ("requests: 2", "requests: 0", "experts.requests: 0 is no whole number from 1 up"),
        ("device: 50%", "device: 500%", "tiers.device: '500%' is no share of the experts; write 25%, or bytes"),
        ("device: 50%", "device: 0%", "tiers: 'device' has 0 bytes; one layer of a step needs 2 experts; give it"),
        ("device: 50%", "device: 1KiB", "tiers: 'device' has 1,024 bytes; one layer of a step needs 2 experts"),
        ("device: 50%, ", "", "tiers: 'device' is missing; say how many bytes of it hold experts"),
        ("host: 25%", "nvme: 1GiB", "tiers: 'nvme': all experts lie on the drive; leave it out"),
        ("rtx4090", "jetson_agx_orin", "tiers: 'host': device and host are one memory"),
        ("next_gate", "next_gat", "predictors: 'next_gat' is unknown; did you mean 'next_gate'"),
        ("[lru", "[lur", "eviction policy 'lur' is unknown; did you mean 'lru'"),
        ("[none, popularity, next_gate]", "[]", r"predictors: \[\] is no list of names"),
        ("hardware: rtx4090\n", "", "'hardware' is missing; a scenario of experts has hardware, model and tiers"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(OffloadError, match=message) as error:
        rows_of(folder, SCENARIO.replace(old, new))
    assert "\n" not in str(error.value)


def test_a_trace_of_another_model(folder: Path) -> None:
    generate_routing([(6, 10)], 3, 8, 2, seed=1).save(folder / "trace.npz")
    told = SCENARIO.replace("{requests: 2, prompt_tokens: 6, new_tokens: 10, seed: 1}", "{trace: trace.npz}")
    with pytest.raises(OffloadError, match="of 3 layers of 8 experts, 2 a token; the model has 4 layers of 8, 2 a"):
        rows_of(folder, told)


def test_classes_of_ones_own_decide_in_both_clocks(folder: Path) -> None:
    own = SCENARIO.replace("[lru, expected_use]", '[lru, "mine:Mine"]').replace("next_gate", '"mine:First"')
    (folder / "s.yaml").write_text(own, encoding="utf-8")
    ran = offload("simulate", "s.yaml", "--json", cwd=folder)
    assert (ran.returncode, ran.stderr) == (0, "")
    rows = {row["policy"]: row for row in json.loads(ran.stdout)["rows"]}
    for suffix in ("", " + popularity", " + mine:First"):
        ours, theirs = rows[f"lru{suffix}"], rows[f"mine:Mine{suffix}"]
        unlike = dict.fromkeys(("policy", "eviction", "fingerprint"))
        assert {**ours, **unlike} == {**theirs, **unlike}
    assert rows["lru + mine:First"]["prefetched_ratio"] > 0
    mark = folder / "predicted.txt"
    assert "ExpertKey" in mark.read_text(encoding="utf-8")
    mark.unlink()

    save_model(folder / "model", "mixtral", num_local_experts=8, num_experts_per_tok=2, hidden_size=64)
    arguments = ["run", "model", "--prompt-ids", "1,2,3,4,5,6", "--max-new-tokens", "12", "--json"]
    plain = offload(*arguments, cwd=folder)
    assert plain.returncode == 0, plain.stderr
    answer = json.loads(plain.stdout)
    tight = ["--device-memory", str(answer["tiers"]["device"]["capacity_bytes"] * 3 // 4)]
    ran = offload(*arguments, *tight, "--policy", "mine:Mine", "--predictor", "mine:First", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["token_ids"] == answer["token_ids"]
    assert "ExpertKey" in mark.read_text(encoding="utf-8")

    bad = offload(*arguments, *tight, "--predictor", "mine:Bad", cwd=folder)
    said = "'mine:Bad' is no predictor of experts: predict(0) gave 0, which is no expert of this model"
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)
    assert said in bad.stderr
    (folder / "s.yaml").write_text(own.replace("First", "Bad"), encoding="utf-8")
    bad = offload("simulate", "s.yaml", cwd=folder)
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)
    assert said in bad.stderr


def test_the_scenario_that_ships_can_be_read() -> None:
    path = SHIPPED / "experts_mixtral.yaml"
    case = ExpertCases(path).read(read_config_file(path))
    assert case.setting.slots == {"device": 48, "host": 97}
    assert (len(case.policies), len(case.predictors)) == (3, 3)


def test_the_example_of_the_page_is_a_predictor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    (folder / "mine.py").write_text(example[1], encoding="utf-8")
    monkeypatch.chdir(folder)
    rows = rows_of(folder, SCENARIO.replace("next_gate", '"mine:MyPredictor"'))
    assert "lru + mine:MyPredictor" in {row["policy"] for row in rows}


def test_uniform_routing_is_warned_of_and_all_is_shown(folder: Path) -> None:
    even = SCENARIO.replace("seed: 1", "skew: 0, locality: 0, topic: 0")
    (folder / "s.yaml").write_text(even, encoding="utf-8")
    ran = offload("simulate", "s.yaml", cwd=folder)
    assert ran.returncode == 0
    assert ran.stderr.startswith("offload: warning: this routing is uniform: no policy can be told from another")
    assert ran.stderr.count("\n") == 1
    for shown in ("expected_use + next_gate", "belady", "perfect prefetch", "nvme->device", "J/token"):
        assert shown in ran.stdout


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    sys.modules.pop("mine", None)
