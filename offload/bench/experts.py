"""Mixtures of experts in little memory: policies and predictors against each other, peers, the drive and Belady."""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from offload.bench.child import run_child
from offload.bench.drive import Drive
from offload.bench.expert_peers import PROGRAMS, beside, peer_specs
from offload.bench.expert_spec import WARM_STEPS, Spec, Timing
from offload.bench.header import header
from offload.bench.memory_limit import INTERPRETER_NBYTES
from offload.bench.synthetic_moe import VOCABULARY, synthetic_moe
from offload.bench.ticker import Progress, ticker
from offload.config import RunConfig
from offload.experts.precision_name import COLD
from offload.experts.predictors import make_predictor
from offload.numbers import has_tokenizer
from offload.pack import pack
from offload.plan import Budgets, Workload
from offload.planner import smallest_device_bytes
from offload.prospect import open_prospect
from offload.texts import help_tokens
from offload.traces.record import Course, record_trace
from simulators.belady import belady_hit_ratio
from simulators.expert_replay import replay
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of, passes_of
from tiers.errors import ModelError, WorldError
from tiers.eviction.registry import make_policy

Row = dict[str, Any]

ON_DEMAND: Final = ("lru", "none")
OURS: Final = ("expected_use", "next_gate")

MATCHES: Final = {
    "load on demand, LRU": ON_DEMAND,
    "load on demand, LFU": ("lfu", "none"),
    "LRU of each layer (mixtral-offloading)": ("per_layer_lru", "none"),
    "popularity (Fiddler)": ("lfu", "popularity"),
    "activation matrix (MoE-Infinity)": ("activation_ratio", "activation_matrix"),
    "shallow layers whole, ARC, next gate (Fate)": ("shallow_arc", "next_gate"),
    "weighted priorities, next gate (HOBBIT)": ("weighted", "next_gate"),
    "expected use": ("expected_use", "none"),
    "expected use, next gate": OURS,
}
"""Eviction policy and predictor, under the names of the systems that they come from."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much to generate and measure. The defaults are the benchmark; tests use small ones."""

    prompt: int = 64
    steps: int = 96
    memory_limit: int | None = 2**30
    slots_share: float | None = None
    """Of the experts that are cached; None takes what the memory limit leaves room for."""
    with_peers: bool = True
    precisions: tuple[str, ...] = ("int8", "int4", "stored+int4")
    fio_s: float = 3.0
    most_file_nbytes: int = 2**30
    timeout_s: float = 1800.0


def bench_experts(
    model: Path | None,
    nvme_dir: Path,
    *,
    predictor: Path | None = None,
    progress: Progress | None = None,
    sizes: Sizes | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Rows for ``model``, or for a synthetic one of 3.5 GB: all resident, then policies, precisions and peers.

    Everything but the first row runs in a memory cgroup, page cache included, where this user may make one. The steps
    take given tokens, so that all rows do the same work: a real text where the model has a tokenizer, else random ids.
    ``limit`` is the roofline: the time of a resident step, or the bytes that were missed at the rate that fio reached
    before and after, whichever is longer. ``predictor`` is the file of a trained one. Raises as ``offload.load``, and
    WorldError where a run fails.
    """
    sizes = sizes or Sizes()
    nvme_dir.mkdir(parents=True, exist_ok=True)
    path = model or synthetic_moe(nvme_dir)
    total = 2 + len(MATCHES) + (predictor is not None) + len(sizes.precisions) + 2 * sizes.with_peers
    with Drive.opened(nvme_dir, seconds=sizes.fio_s, most_nbytes=sizes.most_file_nbytes, seed=seed) as drive:
        bench = _Bench(path, nvme_dir, sizes, drive, ticker(progress, total), predictor)
        rows = list(bench.rows(_tokens(path, sizes, seed)))
    return header(seed=seed, directory=nvme_dir) | {
        "model": path.name,
        "memory_limit_bytes": bench.limit_in_force,
        "drive_measured_with": drive.tool,
        "peer_errors": bench.peer_errors,
        "rows": rows,
    }


class _Bench:
    def __init__(
        self, model: Path, nvme_dir: Path, sizes: Sizes, drive: Drive, tick: Callable[[], None], predictor: Path | None
    ) -> None:
        self._model = model
        self._nvme_dir = nvme_dir
        self._sizes = sizes
        self._drive = drive
        self._tick = tick
        self._predictor = predictor
        self.limit_in_force: int | None = None
        self.peer_errors: dict[str, str] = {}
        """Why a peer was not measured."""

    def rows(self, tokens: list[int]) -> Iterator[Row]:
        """One after the other, each in a process of its own."""
        ids = self._nvme_dir / "bench-tokens.txt"
        ids.write_text(" ".join(map(str, tokens)), encoding="utf-8")
        base = Spec("ours", str(self._model), str(ids), self._sizes.prompt, str(self._nvme_dir / "runs"))
        resident, row = self._resident(base)
        yield row
        trace = self._record(tokens)
        spec, budget = self._within_limit(base)
        peers = self._peers(base, budget) if self._sizes.with_peers else {}
        demand: Timing | None = None
        matches = dict(MATCHES)
        if self._predictor:
            matches["expected use, trained on paths (ExpertFlow)"] = ("expected_use", str(self._predictor))
        for name, (policy, predictor) in matches.items():
            timing, row = self._measured(
                name, replace(spec, policy=policy, predictor=predictor), resident, peers, trace
            )
            demand = demand or timing
            row["transfer_time_hidden"] = 1 - timing.stall_s_per_step / max(demand.stall_s_per_step, 1e-9)
            yield row
        for precision in self._sizes.precisions:
            yield self._packed(spec, precision, resident, peers, trace)

    def _resident(self, spec: Spec) -> tuple[Timing, Row]:
        """Everything in memory, without a limit: the floor of the roofline, against plain transformers."""
        ours, _ = self._run(spec, None)
        self._tick()
        row: Row = {"name": "all resident", "unit": "tokens/s", "ours": 1 / ours.step_s, "prefill_s": ours.prefill_s}
        if self._sizes.with_peers:
            theirs, _ = self._run(replace(spec, engine="transformers"), None)
            row |= {"peer": 1 / theirs.step_s, "peer_name": "transformers", "peer_prefill_s": theirs.prefill_s}
            row["ratio_to_peer"] = theirs.step_s / ours.step_s
        self._tick()
        return ours, row

    def _record(self, tokens: list[int]) -> ExpertTrace:
        """What the gates choose for these tokens: the same in every row, since all are exact."""
        course = Course(1, self._sizes.prompt, self._sizes.steps, forced=True)
        return record_trace(RunConfig(), self._model, tokens, course, gate_inputs=True)

    def _within_limit(self, spec: Spec) -> tuple[Spec, int]:
        """The budget that the memory limit leaves, or that holds the share of the experts that is to be cached."""
        prospect = open_prospect(self._model)
        prospect.source.close()
        found, sizes = prospect.sizes, self._sizes
        if sizes.slots_share is not None:
            slots = round(found.num_experts * sizes.slots_share)
            weights = sum(group.nbytes for group in prospect.source.groups)
            return replace(spec, expert_slots=slots), weights - (found.num_experts - slots) * found.expert_nbytes
        if sizes.memory_limit is None:
            return spec, sum(group.nbytes for group in prospect.source.groups)
        workload = Workload(1, sizes.prompt, sizes.steps)
        budget = max(sizes.memory_limit - INTERPRETER_NBYTES, smallest_device_bytes(found, Budgets(), workload))
        return replace(spec, device_memory=budget), budget

    def _peers(self, spec: Spec, budget: int) -> dict[str, Timing]:
        """In the same limit; those that get through."""
        found = {}
        for name, prepare in peer_specs(spec, self._nvme_dir, budget).items():
            try:
                found[name], _ = self._run(prepare(), self._sizes.memory_limit)
            except (WorldError, ModelError, subprocess.TimeoutExpired) as error:
                self.peer_errors[name] = str(error)
            self._tick()
        return found

    def _packed(
        self, spec: Spec, precision: str, resident: Timing, peers: Mapping[str, Timing], trace: ExpertTrace
    ) -> Row:
        """The same budget with experts in fewer bits: more of them fit, and each is fewer bytes."""
        out = self._nvme_dir / f"{self._model.name}-{precision}"
        pack(self._model, out, experts=precision, trace=trace if precision == COLD else None)
        name, spec = f"experts in {precision}", replace(spec, model=str(out))
        if "+" in precision:
            name, spec = f"{name}, the lower where little is added (HOBBIT)", replace(spec, miss_precision="mixed")
        timing, row = self._measured(name, spec, resident, peers, None)
        return row | {"expert_slots": timing.expert_slots}

    def _measured(
        self, name: str, spec: Spec, resident: Timing, peers: Mapping[str, Timing], trace: ExpertTrace | None
    ) -> tuple[Timing, Row]:
        before = self._drive.bytes_per_s()
        timing, limited = self._run(spec, self._sizes.memory_limit)
        rate = (before + self._drive.bytes_per_s()) / 2
        if limited:
            self.limit_in_force = self._sizes.memory_limit
        roofline = max(resident.step_s, timing.nbytes_per_step / rate)
        accesses = timing.hits + timing.pending_hits + timing.misses
        row: Row = {"name": name, "unit": "tokens/s", "ours": 1 / timing.step_s, "limit": 1 / roofline} | {
            "ratio_to_limit": roofline / timing.step_s,
            "hit_ratio": (timing.hits + timing.pending_hits) / max(1, accesses),
            "arrived_late": timing.pending_hits / max(1, accesses),
            "missed_bytes_per_token": timing.nbytes_per_step,
            "stall_s_per_token": timing.stall_s_per_step,
            "decisions_share": timing.decision_s_per_step / timing.step_s,
            "prefill_s": timing.prefill_s,
            "prefill_over_reading": timing.prefill_s / max(timing.prefill_nbytes / rate, 1e-9),
            "drive_gib_s": rate / 2**30,
            "expert_slots": timing.expert_slots,
            "peak_rss_bytes": timing.peak_rss_nbytes,
        }
        if trace is not None:
            row["belady_hit_ratio"] = best = _belady_hit_ratio(trace, timing.expert_slots)
            row["belady_gap"] = best - row["hit_ratio"]
            row["prediction_accuracy"] = _accuracy(trace, spec)
        row |= beside(peers, timing)
        self._tick()
        return timing, row

    def _run(self, spec: Spec, limit: int | None) -> tuple[Timing, bool]:
        """In a process of its own; whether the limit was in force. Raises WorldError with what it said last."""
        who = f"{spec.engine} with {spec.policy}, {spec.predictor}"
        module = PROGRAMS.get(spec.engine, "offload.bench.expert_run")
        ran = run_child(who, module, spec, limit, timeout_s=self._sizes.timeout_s)
        return Timing(**ran.answer), ran.is_limited


def _tokens(model: Path, sizes: Sizes, seed: int) -> list[int]:
    count = sizes.prompt + sizes.steps
    if has_tokenizer(model):
        return help_tokens(model, count)
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(0, VOCABULARY, (count,), generator=generator).tolist()
    return ids


def _belady_hit_ratio(trace: ExpertTrace, slots: int) -> float:
    """Of the steps that are timed."""
    passes = passes_of(trace)
    first = next(i for i, one in enumerate(passes) if one.is_decode) + WARM_STEPS
    return belady_hit_ratio(passes, slots, range(first, len(passes)))


def _accuracy(trace: ExpertTrace, spec: Spec) -> float | None:
    """Of the predictor in the decode steps: precision and recall at the number of experts that were needed."""
    gates = dict(zip(trace.layers.tolist(), trace.gates, strict=True)) if trace.gates.size else {}
    top_k = trace.experts.shape[2]
    predictor = make_predictor(spec.predictor, keys_of(trace), top_k, lambda: gates, lambda: trace.model)
    if predictor is None:
        return None
    return replay(trace, make_policy("lru", trace.num_experts * len(trace.layers)), predictor).score.accuracy
