"""What a plan expects of a mixture's experts, and that it says on what it stands."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from offload.cli import app
from offload.commands.view import plan_line
from offload.config import RunConfig
from offload.numbers import parse_ids
from offload.plan import Budgets, Plan, Workload
from offload.plan_experts import Foresee, even_use, recorded_use, typical_hit_ratio, typical_use
from offload.planner import make_plan
from offload.traces.record import Course, record_trace
from simulators.profile import DEFAULT
from simulators.routing_generator import generate_routing
from tests.offload.replay_kit import make_sizes
from tests.offload.zoo import save_model
from tiers.errors import TraceError

SIZES = make_sizes(4, experts=8, top_k=2)
WORK = Workload(1, 16, 8)


def _half_cached(foresee: Foresee | None = None) -> Plan:
    whole = make_plan(SIZES, Budgets(), WORK, DEFAULT)
    assert whole.expectation is None
    half = Budgets(whole.device_bytes_used - 16 * SIZES.expert_slot_nbytes)
    return make_plan(SIZES, half, WORK, DEFAULT, foresee=foresee)


def test_typical_hits_are_those_of_what_was_recorded() -> None:
    """The share that is cached is the least, all of it the most."""
    assert (typical_hit_ratio(0.0), typical_hit_ratio(1.0)) == (0.0, 1.0)
    for share, recorded in ((0.25, 0.42), (0.5, 0.69), (0.75, 0.88)):
        assert share < typical_hit_ratio(share) == pytest.approx(recorded, abs=0.04)


def test_the_more_is_known_to_be_there_the_faster() -> None:
    plan = _half_cached()
    assert plan.routing == "typical"
    assert plan.expert_hit_ratio == pytest.approx(typical_hit_ratio(0.5))
    assert plan.even_tokens_per_s is not None
    assert plan.predicted_tokens_per_s > plan.even_tokens_per_s
    assert _half_cached(even_use(SIZES, WORK)).predicted_tokens_per_s == plan.even_tokens_per_s
    alike = generate_routing([(16, 8)], 4, 8, 2)
    alike = replace(alike, experts=alike.experts[:1].repeat(len(alike.experts), axis=0))
    told = _half_cached(recorded_use(SIZES, WORK, alike, "lru"))
    assert (told.routing, told.expert_hit_ratio) == ("recorded", 1.0)
    assert told.predicted_tokens_per_s > plan.predicted_tokens_per_s


def test_sequences_side_by_side_visit_more() -> None:
    trace = generate_routing([(8, 8)] * 4, 4, 8, 2)
    alone, four = (recorded_use(SIZES, Workload(batch, 8, 8), trace, "lru")(16).visits for batch in (1, 4))
    assert alone == 8
    assert alone < four < 4 * alone
    assert typical_use(SIZES, Workload(4, 8, 8))(16).visits == 32


def test_slots_for_less_than_a_visit_keep_nothing() -> None:
    trace = generate_routing([(8, 8)] * 4, 4, 8, 2)
    use = recorded_use(SIZES, Workload(4, 8, 8), trace, "lru")(2)
    assert use.misses == use.visits > 8


def test_a_trace_of_fewer_requests_than_side_by_side_is_refused() -> None:
    with pytest.raises(TraceError, match="2 requests, fewer than --batch 4; record it with --requests 4 or more"):
        recorded_use(SIZES, Workload(4, 8, 8), generate_routing([(8, 8)] * 2, 4, 8, 2), "lru")


def test_a_trace_of_something_else_is_refused() -> None:
    with pytest.raises(TraceError, match="of 4 layers of 16 experts, 2 a token; the model has 4 of 8, 2 a token"):
        recorded_use(SIZES, WORK, generate_routing([(8, 8)], 4, 16, 2), "lru")
    with pytest.raises(TraceError, match="nothing was generated"):
        recorded_use(SIZES, WORK, generate_routing([(8, 0)], 4, 8, 2), "lru")


def test_the_command_line_says_what_it_assumes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, file = save_model(tmp_path / "model", "mixtral"), tmp_path / "trace.npz"
    ids = parse_ids("--prompt-ids", ",".join(str(i) for i in range(20)))
    record_trace(RunConfig(), model, ids, Course(1, 12, 5)).save(file)

    def told(*more: str) -> str:
        words = ["plan", str(model), "--prompt-tokens", "12", "--max-new-tokens", "5", *more]
        capfd.readouterr()
        app(args=words, standalone_mode=False)
        return " ".join(capfd.readouterr().out.split())

    whole = json.loads(told("--json"))
    assert whole["experts"] is None
    experts = whole["placement"]["device"]
    budget = experts["bytes"] - experts["expert_bytes"] // 2
    few = ("--device-memory", f"{budget // 1024}KiB")
    assumed = json.loads(told(*few, "--json"))
    assert assumed["experts"]["routing"] == "typical"
    assert "as in traces of another mixture" in told(*few)
    known = json.loads(told(*few, "--trace", str(file), "--json"))
    assert known["experts"]["routing"] == "recorded"
    assert "the trace finds" in told(*few, "--trace", str(file))


def test_the_line_of_a_run_says_what_it_leaves_out() -> None:
    plan = make_plan(SIZES, Budgets(), WORK, DEFAULT)
    assert "without what the computational drives take" not in plan_line(plan)
    assert "without what the computational drives take" in plan_line(replace(plan, is_beside_drives=True))
    assert "if 69% of the visited experts are there" in plan_line(_half_cached())
