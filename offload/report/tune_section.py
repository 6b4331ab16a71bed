"""What a page says about ``offload tune``: the objective over the trials, and the best settings."""

from collections.abc import Sequence
from itertools import accumulate

from offload.report.facts import facts_of
from offload.report.figures import MUTED, axis, colour, layout
from offload.report.parts import Figure, Key, Plot, Section, Table, short
from offload.report.results import Result, Row


def tune_section(result: Result) -> Section:
    """Of one file. ``trials`` have a ``value`` each, and their ``settings``; ``direction`` is minimize or maximize."""
    data, trials = result.data, result.data["trials"]
    is_least = data.get("direction") == "minimize"
    objective = str(data.get("objective", "objective"))
    known = [trial for trial in trials if trial["value"] is not None]
    best = (min if is_least else max)(known, key=lambda trial: trial["value"]) if known else None
    facts = facts_of(result, ("command", "seed"))
    plots = [
        Plot(
            f"{objective[:1].upper()}{objective[1:]} over the trials",
            f"Each point is a trial; the line is the best so far. {'Lower' if is_least else 'Higher'} is better.",
            _course(trials, objective, is_least),
        )
    ]
    settings = list(dict.fromkeys(key for trial in trials for key in trial.get("settings", {})))
    rows = [
        [f"{i}{' (best)' if trial is best else ''}", short(trial["value"]), *(_setting(trial, key) for key in settings)]
        for i, trial in enumerate(trials, 1)
    ]
    finding = ""
    if best:
        given = ", ".join(f"{key} {_setting(best, key)}" for key in settings)
        finding = (
            f"The best of {len(trials)} trials reaches {objective} {short(best['value'])}{given and ' with '}{given}."
        )
    table = Table("Trials", ("trial", objective, *settings), rows)
    return Section(f"Tuning: {result.path.name}", facts, plots, [table], finding=finding)


def _course(trials: Sequence[Row], objective: str, is_least: bool) -> Figure:
    numbers, values = list(range(1, len(trials) + 1)), [trial["value"] for trial in trials]
    known = [(number, value) for number, value in zip(numbers, values, strict=True) if value is not None]
    best = list(accumulate((value for _, value in known), min if is_least else max))
    points = {"type": "scatter", "mode": "markers", "x": numbers, "y": values, "marker": {"color": MUTED, "size": 7}}
    look = {"color": colour(0), "shape": "hv", "width": 2}
    line = {"type": "scatter", "mode": "lines", "x": [number for number, _ in known], "y": best, "line": look}
    keys = [Key("trial", MUTED, "●", [0]), Key("best so far", colour(0), "▬", [1])]
    return Figure([points, line], layout(360) | {"xaxis": axis("trial"), "yaxis": axis(objective)}, keys)


def _setting(trial: Row, key: str) -> str:
    value = trial.get("settings", {}).get(key)
    return "–" if value is None else short(value) if isinstance(value, float) else str(value)
