"""The simulator against real runs of this machine: tokens a second foretold and measured, setup by setup."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from offload.bench.header import header
from offload.bench.published import published_cells, published_rows, published_summary
from offload.bench.simulator_setups import Setup, setups
from offload.bench.synthetic_moe import synthetic_moe
from offload.bench.ticker import Progress, ticker
from offload.config import RunConfig
from offload.numbers import has_tokenizer
from offload.prospect import open_prospect, plan_for
from offload.simulation.drive_plan import DrivePlan
from offload.simulation.drive_speed import DriveSpeeds, drive_layers, measure_drives
from offload.simulation.foretell import foretell
from offload.speed.transfers import stream_speed
from offload.texts import help_tokens
from offload.traces.record import Course, record_trace
from simulators.expert_trace import ExpertTrace
from simulators.generation_replay import GenerationResult
from simulators.generation_shape import DriveCosts
from simulators.profile import HardwareProfile
from simulators.profile_file import read_profile
from simulators.runtime_profile import RuntimeProfile
from tiers.errors import WorldError

Row = dict[str, Any]

AIM_MEDIAN, AIM_WORST = 0.10, 0.20


@dataclass(frozen=True, slots=True)
class Sizes:
    """What to run. The defaults are the benchmark; tests use small ones.

    Between ``turn`` setups the machine is measured anew: what a virtual machine gives changes from minute to minute.
    Each setup runs ``repeats`` times, in turn with the others: what else happens on a machine slows single runs down.
    """

    setups: Sequence[Setup] = field(default_factory=setups)
    turn: int = 5
    repeats: int = 3
    mixture_layers: int = 6
    timeout_s: float = 600.0
    stream_s: float = 1.5
    """For timing the drive, twice for each run."""
    measure: Callable[[Path, Path], HardwareProfile] | None = None
    """Gives the profile of this machine, from the directory of the drive and one for caches; None is the doctor's."""


def bench_simulator(
    dense: Path,
    nvme_dir: Path,
    *,
    mixture: Path | None = None,
    progress: Progress | None = None,
    sizes: Sizes | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Rows for the setups: ``ours`` is what the simulator says, ``measured`` what ``offload run`` did.

    Behind them the rows of published tables, ``ours`` beside ``paper``, which ``median_error`` leaves out.

    Every run is a process of its own. Before and after some of them ``offload doctor`` measures the machine, and right
    before and after each the drive is timed on the files of its model: a prediction counts with the nearer doctor and
    the drive as it was then. Of the runs of a setup the one with the error in the middle is its row. ``plan`` is what
    the planner predicts, told the routing of a mixture. Experts are replayed from the routing that is
    recorded here, for the same prompt. Raises as ``offload.load``, and WorldError where a run fails.
    """
    sizes = sizes or Sizes()
    nvme_dir.mkdir(parents=True, exist_ok=True)
    if any(setup.is_mixture for setup in sizes.setups):
        mixture = mixture or synthetic_moe(nvme_dir, sizes.mixture_layers)
    bench = _Bench(dense, mixture, nvme_dir, sizes, ticker(progress, len(sizes.setups)), seed)
    rows = list(bench.rows())
    errors = [abs(row["error"]) for row in rows]
    cells = published_cells()
    found = {
        "dense": dense.name,
        "mixture": None if mixture is None else mixture.name,
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
        "aims": {"median_error": AIM_MEDIAN, "worst_error": AIM_WORST},
    }
    rows += published_rows(cells)
    return header(seed=seed, directory=nvme_dir) | found | published_summary(cells) | {"rows": rows}


@dataclass(frozen=True, slots=True)
class _Run:
    """What ``offload run`` was told and what it answered; bytes per second of the drive before and after it."""

    config: RunConfig
    answer: dict[str, Any]
    stream_rates: tuple[float, float]
    drives: tuple[DriveSpeeds | None, DriveSpeeds | None]
    """What computational drives took before and after it."""

    @property
    def stream_rate(self) -> float:
        """While it ran."""
        return statistics.mean(self.stream_rates)

    @property
    def speeds(self) -> DriveSpeeds | None:
        """What computational drives took while it ran, and real ones would have taken; None without."""
        found = [speeds for speeds in self.drives if speeds]
        if not found:
            return None
        return DriveSpeeds(_mean([one.emulated for one in found]), _mean([one.modelled for one in found]))


class _Bench:
    def __init__(
        self, dense: Path, mixture: Path | None, nvme_dir: Path, sizes: Sizes, tick: Callable[[], None], seed: int
    ) -> None:
        self._dense, self._mixture = dense, mixture
        self._nvme_dir, self._sizes, self._tick, self._seed = nvme_dir, sizes, tick, seed
        self._caches = nvme_dir / "bench-simulator"
        """Where the runs find the profile that their plans and ours are made with: the user's own stays as it is."""
        self._traces: dict[tuple[int, int], ExpertTrace] = {}

    def rows(self) -> Iterator[Row]:
        measure = self._sizes.measure or _doctor
        before = measure(self._nvme_dir, self._caches)
        todo = list(self._sizes.setups)
        while todo:
            some, todo = todo[: self._sizes.turn], todo[self._sizes.turn :]
            rounds = [[self._run(setup, before) for setup in some] for _ in range(self._sizes.repeats)]
            after = measure(self._nvme_dir, self._caches)
            for setup, runs in zip(some, zip(*rounds, strict=True), strict=True):
                half = len(runs) / 2
                rows = [
                    self._row(setup, one, before, before if number < half else after) for number, one in enumerate(runs)
                ]
                yield _middle(rows)
                self._tick()
            before = after

    def _row(self, setup: Setup, ran: _Run, planned_with: HardwareProfile, measured: HardwareProfile) -> Row:
        """Foretold with the machine as it was ``measured`` and the drive as it was while it ran."""
        profile = _at(measured, ran.stream_rate)
        costs = (ran.speeds.emulated, ran.speeds.modelled) if ran.speeds else (None,)
        found = [self._foretell(setup, ran.config, planned_with, profile, drives) for drives in costs]
        return _row(setup, found, self._plan(setup, ran, profile), ran)

    def _plan(self, setup: Setup, ran: _Run, profile: HardwareProfile) -> float:
        """Tokens a second that the planner predicts, told what the gates choose: of that it knows nothing by itself."""
        prospect = open_prospect(self._model(setup), ran.config, context_tokens=setup.workload.context_tokens)
        prospect.source.close()
        trace = self._trace(setup) if setup.is_mixture else None
        plan = plan_for(prospect, ran.config, setup.workload, profile, trace=trace)
        if ran.speeds is None:
            return plan.predicted_tokens_per_s
        with_drives = DrivePlan(plan, setup.workload, len(drive_layers(prospect)), "instattention", ran.speeds)
        return with_drives.tokens_per_s(ran.speeds.emulated)

    def _run(self, setup: Setup, profile: HardwareProfile) -> "_Run":
        """``offload run`` in a process of its own; the drive is timed right before and after it."""
        model = self._model(setup)
        config = setup.config(model, self._nvme_dir, profile)
        options = {
            "--prompt-ids": ",".join(map(str, self._prompt(setup))),
            "--max-new-tokens": str(setup.new_tokens),
            "--host-memory": str(config.host_memory),
            "--nvme-dir": str(self._nvme_dir),
            "--policy": config.policy,
            "--predictor": config.predictor,
        }
        if config.device_memory is not None:
            options["--device-memory"] = str(config.device_memory)
        if config.csd:
            options["--csd"] = str(config.csd)
        words = [word for option in options.items() for word in option]
        before = self._stream_rate(model), self._drives(setup, model, config)
        answer = _offload(["run", str(model), *words], self._caches, self._sizes.timeout_s)
        after = self._stream_rate(model), self._drives(setup, model, config)
        return _Run(config, answer, (before[0], after[0]), (before[1], after[1]))

    def _drives(self, setup: Setup, model: Path, config: RunConfig) -> DriveSpeeds | None:
        if not config.csd:
            return None
        prospect = open_prospect(model, config, context_tokens=setup.workload.context_tokens)
        try:
            return measure_drives(prospect, config, setup.workload)
        finally:
            prospect.source.close()

    def _stream_rate(self, model: Path) -> float:
        prospect = open_prospect(model)
        try:
            return stream_speed(prospect.source, self._sizes.stream_s)
        finally:
            prospect.source.close()

    def _foretell(
        self,
        setup: Setup,
        config: RunConfig,
        planned_with: HardwareProfile,
        profile: HardwareProfile,
        drives: DriveCosts | None,
    ) -> GenerationResult:
        trace = self._trace(setup) if setup.is_mixture else None
        model, workload = self._model(setup), setup.workload
        return foretell(model, config, workload, profile, trace, planned_with=planned_with, drives=drives)

    def _trace(self, setup: Setup) -> ExpertTrace:
        """What the gates choose in this generation: the same whatever the budget, since tokens are."""
        key = (setup.prompt_tokens, setup.new_tokens)
        if key not in self._traces:
            course = Course(1, setup.prompt_tokens, setup.new_tokens - 1)
            prompt = self._prompt(setup)
            self._traces[key] = record_trace(RunConfig(), self._model(setup), prompt, course, gate_inputs=True)
        return self._traces[key]

    def _model(self, setup: Setup) -> Path:
        if not setup.is_mixture:
            return self._dense
        assert self._mixture is not None, "a setup with experts has a mixture"
        return self._mixture

    def _prompt(self, setup: Setup) -> list[int]:
        model = self._model(setup)
        if has_tokenizer(model):
            return help_tokens(model, setup.prompt_tokens)
        import random

        draw = random.Random(self._seed)  # noqa: S311 - tokens without meaning
        return [draw.randrange(256) for _ in range(setup.prompt_tokens)]


def _at(profile: HardwareProfile, stream_bytes_per_s: float) -> HardwareProfile:
    """The machine with the drive as it is now: what others leave of it changes from minute to minute."""
    runtime = replace(profile.runtime or RuntimeProfile(), stream_bytes_per_s=stream_bytes_per_s)
    return replace(profile, runtime=runtime)


def _row(setup: Setup, found: Sequence[GenerationResult], plan: float, ran: _Run) -> Row:
    """Foretold of this run and, as ``modelled_tokens_per_s``, of one with real computational drives, if it has any."""
    answer, (foretold, *others) = ran.answer, found
    ours, measured = foretold.decode_tokens_per_s, answer["decode_tokens_per_s"]
    return {
        "name": setup.name,
        "unit": "tokens/s",
        "ours": ours,
        "measured": measured,
        "error": ours / measured - 1,
        "plan": plan,
        "plan_error": plan / measured - 1,
        "drive_then_gib_s": ran.stream_rate / 2**30,
        "prefill_s": foretold.prefill_s,
        "measured_prefill_s": answer["prefill_s"],
        "stall_s": foretold.stall_s,
        "measured_stall_s": answer["stall_s"],
        "bytes": foretold.link_nbytes.get("nvme->device", 0),
        "measured_bytes": int(answer["links"].get("nvme->device", {}).get("bytes", 0)),
        **({"modelled_tokens_per_s": others[0].decode_tokens_per_s} if others else {}),
    }


def _mean(costs: Sequence[DriveCosts]) -> DriveCosts:
    columns = zip(*(astuple(one) for one in costs), strict=True)
    return DriveCosts(*map(statistics.mean, columns))


def _middle(rows: Sequence[Row]) -> Row:
    """The row with the error in the middle, and what all runs came to."""
    chosen: Row = sorted(rows, key=lambda row: float(row["error"]))[(len(rows) - 1) // 2]
    return chosen | {"errors": [row["error"] for row in rows], "runs": [row["measured"] for row in rows]}


def _doctor(nvme_dir: Path, caches: Path) -> HardwareProfile:
    """Measured in a process of its own, as users do."""
    caches.mkdir(mode=0o700, parents=True, exist_ok=True)
    answer = _offload(["doctor", "--nvme-dir", str(nvme_dir)], caches, 600.0)
    return read_profile(Path(answer["profile"]))


def _offload(words: Sequence[str], caches: Path, timeout_s: float) -> dict[str, Any]:
    """What a command answers. Raises WorldError with what it said last."""
    command = [sys.executable, "-m", "offload.cli", *words, "--json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(caches.resolve())}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s, env=environment)
    if ran.returncode != 0:
        last = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
        raise WorldError(f"offload {words[0]}: {last}")
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer
