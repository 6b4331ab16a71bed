"""What ``offload tune`` does: reads the task, remembers, searches, and says what was best."""

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offload.simulation.facts import scenario_facts
from offload.simulation.runners.choice import open_runner
from offload.tuning.best import best_scenario, changed, run_settings, write_best
from offload.tuning.learned import SUFFIX, check_file, finished, known_settings, opened
from offload.tuning.space import Choice
from offload.tuning.task import Task, read_task
from offload.zoo import default_cache
from prefetch.third_party import is_third_party
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    from offload.tuning.search import Search  # which imports Optuna

_MOST_WARM = 5


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What is asked besides the scenario. ``study`` is a file or a directory, ``jobs`` None for all cores."""

    objective: str = "tokens_per_s"
    maximize: bool | None = None
    trials: int = 50
    timeout_s: float | None = None
    jobs: int | None = None
    seed: int = 0
    study: Path | None = None
    ray: str | None = None
    out: Path | None = None


def tune(path: Path, options: TuneOptions, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """The answer; ``out`` is written too. An interrupt ends the search, not the answer, if anything was found.

    Raises InvalidOptionError and TraceError for what is wrong with the file, the options or the study,
    KeyboardInterrupt where nothing was found by then, and WorldError where a process or a drive failed.
    """
    optuna = _import_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started_s = time.monotonic()
    task = read_task(path, options.objective, maximize=options.maximize)
    if options.out is not None and options.out.resolve() == task.path.resolve():
        raise InvalidOptionError(f"--out: {options.out} is the scenario with the ranges; name another file")
    study, folder = _place(options.study, task)
    check_file(study)
    from offload.tuning.search import Search

    with opened(study) as storage:
        search = Search(task, storage, options.seed)
        resumed = search.num_known
        warm = search.begin_with(
            known_settings(study, folder, task.features), min(_MOST_WARM, (options.trials + 1) // 2)
        )
        known = search.num_known
        deadline_s = None if options.timeout_s is None else started_s + options.timeout_s
        ended = _run(search, task, options, deadline_s, progress)
        done = list(finished(search.study))
    trials = [_trial(task, number, attributes) for number, attributes in enumerate(done, 1)]
    if not trials:
        _complain_of_nothing(task, search.refusals, ended)
    learned = {"study": study, "resumed": resumed, "taken_over": known - resumed, "warm_started": warm}
    _check_limits(task, trials)
    choices = [attributes["choice"] for attributes in done]
    data = _answer(task, path, options, trials, choices) | learned | {"ended": ended, "refused": len(search.refusals)}
    if options.out is not None:
        write_best(options.out, data)
    return data


def _run(
    search: "Search", task: Task, options: TuneOptions, deadline_s: float | None, progress: Callable[[int, int], None]
) -> str:
    """How it ended: ``done``, ``timeout`` or ``interrupted``."""
    others = [name for axis in task.space.deciders for name in axis.values if is_third_party(name)]
    most = options.jobs or options.trials
    try:
        with open_runner(task.maker, others, most=most, ray=options.ray) as runner:
            search.run(runner, trials=options.trials, jobs=runner.workers, deadline_s=deadline_s, progress=progress)
    except TimeoutError:
        return "timeout"
    except KeyboardInterrupt:
        if not search.num_known:
            raise
        return "interrupted"
    return "done"


def _answer(
    task: Task, path: Path, options: TuneOptions, trials: list[dict[str, Any]], choices: list[Choice]
) -> dict[str, Any]:
    goal = task.goal
    best = min(trials, key=lambda trial: (*goal.rank(goal.figures(trial["row"])), trial["trial"]))
    choice = choices[best["trial"] - 1]
    command = ["offload", "tune", str(path), "--objective", goal.objective]
    command += ["--trials", str(options.trials), "--seed", str(options.seed)]
    if options.maximize is not None:
        command.append("--maximize" if options.maximize else "--minimize")
    return {
        "kind": "tune",
        **scenario_facts(path, task.settings),
        "command": shlex.join(command),
        "objective": goal.objective,
        "direction": "maximize" if goal.is_maximized else "minimize",
        "limits": {name: {"min": least, "max": most} for name, (least, most) in goal.limits.items()},
        "prices": dict(goal.prices),
        "search_seed": options.seed,
        "space": {axis.name: axis.told for axis in task.space.axes},
        "combinations": task.space.size,
        "best": {
            **best,
            "scenario": best_scenario(task, choice, (options.out or task.path).parent),
            "run": run_settings(task, choice),
        },
        "trials": trials,
    }


def _trial(task: Task, number: int, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """One trial, counted from 1; ``value`` is None where a limit is broken: then it is none to choose."""
    row, goal = attributes["row"], task.goal
    figures = goal.figures(row)
    is_within = all(excess <= 0 for excess in goal.excess(figures).values())
    memory = {name: figures[name] for name in ("memory_bytes", "memory_price") if name in figures}
    return {
        "trial": number,
        "source": attributes["source"],
        "settings": changed(task, attributes["choice"]),
        "value": goal.value(figures) if is_within else None,
        "within_limits": is_within,
        "row": {**row, **memory},
    }


def _check_limits(task: Task, trials: list[dict[str, Any]]) -> None:
    """InvalidOptionError, with the nearest to the limits, where none is within them."""
    if any(trial["within_limits"] for trial in trials):
        return
    goal = task.goal
    nearest = min((goal.figures(trial["row"]) for trial in trials), key=goal.rank)
    name, _ = max(goal.excess(nearest).items(), key=lambda item: item[1])
    least, most = goal.limits[name]
    limit = f"at most {most:g}" if nearest[name] > most else f"at least {least:g}"
    raise InvalidOptionError(
        f"{task.path}: limits: none of {len(trials)} settings tried is within them; the nearest has {name} "
        f"{nearest[name]:g} where {limit} is wanted; allow more, or --trials"
    )


def _complain_of_nothing(task: Task, refusals: list[str], ended: str) -> None:
    if refusals:
        raise InvalidOptionError(f"{task.path}: no setting that was tried can run, such as {refusals[0]}")
    if ended == "timeout":
        raise InvalidOptionError("--timeout: ended before the first setting was through; give more seconds")
    raise InvalidOptionError(f"{task.path}: no setting is within the limits; give other ranges or limits")


def _place(given: Path | None, task: Task) -> tuple[Path, Path | None]:
    """The file of the study, and the directory of those of others; None where a file was given."""
    if given is not None and not given.is_dir():
        if not given.parent.is_dir():
            raise InvalidOptionError(f"--study: {given.parent} does not exist; name a file in a directory that does")
        return given, None
    folder = given or default_cache() / "tune"
    return folder / f"{task.subject}-{task.inputs}{SUFFIX}", folder


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        message = "offload tune searches with Optuna, which is not installed; pip install 'offload-runtime[tune]'"
        raise InvalidOptionError(message) from None
    return optuna
