"""What a page says about traces: of the requests to a server, and of what a run did when."""

from typing import Any

from offload.report.facts import facts_of
from offload.report.figures import bars
from offload.report.lanes import lanes, lanes_table
from offload.report.parts import Plot, Section, Table, number, share
from offload.report.results import Result
from simulators.activity import timeline_of_spans

_RUN_READING = (
    "The stronger the colour, the larger the share of that moment in which the model computed or waited, or a link "
    "moved blocks."
)


def trace_info_section(result: Result) -> Section:
    """Of one answer of ``offload trace info``, about requests or about experts."""
    data = result.data
    reused = data["accesses"] - data["unique_blocks"]
    fates = {"first uses": [data["unique_blocks"]], "uses again": [reused]}
    plots = [
        Plot(
            "First uses and others",
            "Only what is used again can be found in a cache, however large it is.",
            bars([result.path.stem], fates, "accesses", stacked=True),
        )
    ]
    if data.get("per_layer"):
        plots += _layers(data["per_layer"])
    figures = [[key.replace("_", " "), _figure(key, value)] for key, value in data.items() if _is_number(value)]
    found = f"Of {data['accesses']:,} accesses {share(reused / max(1, data['accesses']))} ask for something again"
    finding = f"{found}; the ideal cache finds {share(data['ideal_hit_ratio'])}."
    facts = facts_of(result, ("command",)) | {key: str(data[key]) for key in ("format", "model") if data.get(key)}
    return Section(
        f"Trace: {result.path.name}", facts, plots, [Table("Figures", ("", "value"), figures)], finding=finding
    )


def trace_events_section(result: Result) -> Section:
    """Of the timeline of a run, as Perfetto reads it."""
    timeline = timeline_of_events(result.data["traceEvents"])
    plots = [run_lanes(timeline)] if timeline["busy"] else []
    facts = facts_of(result, ())
    return Section(f"Timeline: {result.path.name}", facts, plots, [lanes_table({"run": timeline})])


def run_lanes(timeline: Any) -> Plot:
    """The lanes of a run."""
    return Plot("What happened when", _RUN_READING, lanes(timeline, "time since the start"))


def timeline_of_events(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Lanes of the rows of a trace in the Trace Event Format."""
    names = {one["pid"]: one["args"]["name"] for one in events if one.get("name") == "process_name"}
    spans: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        if event.get("ph") == "X":
            start_s = event["ts"] / 1e6
            spans.setdefault(str(names.get(event.get("pid"), "other")), []).append(
                (start_s, start_s + event["dur"] / 1e6)
            )
    return timeline_of_spans(spans)


def _layers(rows: list[dict[str, Any]]) -> list[Plot]:
    from offload.report.figures import lines

    names = {
        "overlap": "experts shared with the token before",
        "popularity_recall": "guessed from popularity",
        "co_occurrence_recall": "guessed from the layer before",
        "next_gate_recall": "guessed by the gate of the layer before",
    }
    x = [row["layer"] for row in rows]
    series = {
        name: (x, [None if row[key] is None else 100 * row[key] for row in rows])
        for key, name in names.items()
        if all(key in row for row in rows)
    }
    reading = "How many of the experts that a token visits could have been known, layer by layer."
    return [Plot("How well routing can be foreseen", reading, lines(series, "layer", "% of experts"))] if series else []


def _figure(key: str, value: float) -> str:
    if key.endswith("_ratio"):
        return share(value)
    return number(value, 0 if isinstance(value, int) else 3)


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
