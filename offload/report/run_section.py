"""What a page says about ``offload run``: memory against its budget, bytes per link, time against its bound."""

from collections.abc import Mapping
from typing import Any

from offload.report.facts import facts_of
from offload.report.figures import bars
from offload.report.lanes import lanes_table
from offload.report.parts import Plot, Section, Table, arrow, number, share, short
from offload.report.results import Result
from offload.report.trace_sections import run_lanes
from offload.sizes import format_size

_GIB = 2**30


def run_section(result: Result) -> Section:
    """Of one file."""
    data = result.data
    facts = facts_of(result, ("command", "seed", "hardware"))
    tiers, links = data["tiers"], data["links"]
    plots = [
        Plot(
            "Memory of each tier",
            "The most that was in use, beside the budget.",
            bars(
                list(tiers),
                {"peak": _gib(tiers, "peak_bytes"), "budget": _gib(tiers, "capacity_bytes")},
                "GiB",
            ),
        ),
        Plot(
            "Bytes per link",
            "What moved over each link in the whole run.",
            bars(list(map(arrow, links)), {"moved": _gib(links, "bytes")}, "GiB"),
        ),
        Plot(
            "Seconds",
            "Roofline: what the decode steps need by physics. Stall: waiting, in the whole run.",
            bars(list(_times(data)), {"seconds": list(_times(data).values())}, "seconds"),
        ),
    ]
    timeline = data.get("timeline")
    if timeline:
        plots.append(run_lanes(timeline))
    speed = Table(
        "Speed",
        ("", "value"),
        [
            ["decode, tokens/s", number(data["decode_tokens_per_s"])],
            ["roofline / time of decode", share(data["efficiency"])],
            ["hit ratio", share(data["hit_ratio"])],
            *([name + ", s", number(value, 3)] for name, value in _times(data).items()),
        ],
    )
    memory = Table(
        "Memory",
        ("tier", "peak", "budget"),
        [[name, _size(one["peak_bytes"]), _size(one["capacity_bytes"])] for name, one in tiers.items()],
    )
    moved = Table(
        "Links",
        ("link", "bytes", "busy, s"),
        [[arrow(name), _size(one["bytes"]), number(one["busy_s"], 3)] for name, one in links.items()],
    )
    tables = [speed, memory, moved] + ([lanes_table({"run": timeline})] if timeline else [])
    return Section(f"Run: {result.path.name}", facts, plots, tables, finding=_finding(data))


def _finding(data: Mapping[str, Any]) -> str:
    speed, efficiency = data["decode_tokens_per_s"], data["efficiency"]
    bound = "" if efficiency is None else f", {share(efficiency)} of what the hardware allows"
    return "" if speed is None else f"{short(speed)} tokens a second are generated{bound}."


def _times(data: Mapping[str, Any]) -> dict[str, float | None]:
    names = {"prefill": "prefill_s", "decode": "decode_s", "roofline of decode": "roofline_s", "stall": "stall_s"}
    return {name: data[key] for name, key in names.items() if key in data}


def _gib(group: Mapping[str, Mapping[str, float | None]], key: str) -> list[float | None]:
    values = [one[key] for one in group.values()]
    return [None if value is None else value / _GIB for value in values]


def _size(nbytes: float | None) -> str:
    return "–" if nbytes is None else format_size(int(nbytes))
