"""Lanes over time: what was busy, how full the levels were, and how many blocks had to leave."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from offload.report.figures import axis, colour, layout, ramp
from offload.report.parts import Figure, Key, Table, arrow, number, share

_STRIP_PX, _BAND_PX, _HEAD_PX, _FOOT_PX = 30, 120, 34, 56
_TINTS = {"compute": 0, "stall": 1}
"""Lanes with a colour of their own; all others are links."""

_LINK = 2
_FIRST_LINE = 3
"""Colours of links, and of the first of the lines."""


def lanes(timeline: Mapping[str, Any], clock: str) -> Figure:
    """Strips for what was busy; below them lines where the timeline tells of ``levels`` and ``counts``.

    ``clock`` says which seconds those are.
    """
    unit, seconds = _unit(timeline)
    data, keys = _strips(timeline, seconds)
    bands: list[tuple[str, Mapping[str, Sequence[float]], dict[str, Any]]] = []
    slots = timeline.get("slots", {})
    held = {f"{name} tier": _percent(row, slots[name]) for name, row in timeline["levels"].items() if slots.get(name)}
    if held:
        bands.append(("Slots in use, %", held, {"range": [0, 105], "dtick": 50}))
    moved = {name: [value / timeline["bin_s"] for value in row] for name, row in timeline["counts"].items() if any(row)}
    if moved:
        bands.append(("Blocks a second", moved, {"rangemode": "tozero", "nticks": 4}))
    strips_px = _STRIP_PX * len(timeline["busy"])
    heights = [strips_px, *[_BAND_PX] * len(bands)]
    total = sum(heights) + _HEAD_PX * len(heights) + _FOOT_PX
    parts = layout(total) | {"margin": {"l": 8, "r": 20, "t": 0, "b": _FOOT_PX}, "annotations": []}
    top = total - _FOOT_PX
    names = ["Busy, % of the time", *(title for title, _, _ in bands)]
    span = float(top)
    for i, (title, height) in enumerate(zip(names, heights, strict=True)):
        top -= _HEAD_PX
        domain = [max(0.0, (top - height) / span), top / span]
        more = bands[i - 1][2] if i else _lane_names(timeline)
        parts["yaxis" if i == 0 else f"yaxis{i + 1}"] = axis(domain=domain, fixedrange=True, **more)
        parts["annotations"].append(_heading(title, domain[1]))
        top -= height
    drawn: list[Key] = []
    for i, (_, rows, _) in enumerate(bands):
        for name, row in rows.items():
            tint = colour(_FIRST_LINE + len(drawn))
            times = [(place + 0.5) * timeline["bin_s"] / seconds for place in range(len(row))]
            data.append(_line(name, times, row, tint, i + 2))
            drawn.append(Key(name, tint, "▬", [len(data) - 1]))
    last = "y" if not bands else f"y{len(bands) + 1}"
    parts["xaxis"] = axis(f"{clock}, {unit}", anchor=last, rangemode="tozero")
    return Figure(data, parts, [*keys, *drawn], zooms=True)


def lanes_table(timelines: Mapping[str, Mapping[str, Any]]) -> Table:
    """The same in a row for each of the timelines: means of what was busy, and the most that was held."""
    busy = list(dict.fromkeys(lane for one in timelines.values() for lane in one["busy"]))
    levels = list(dict.fromkeys(level for one in timelines.values() for level in one["levels"]))
    rows = [
        [
            name,
            *(share(_mean(one["busy"].get(lane, [0]))) for lane in busy),
            *(number(max(one["levels"].get(level, [0])), 0) for level in levels),
        ]
        for name, one in timelines.items()
    ]
    columns = ("", *(f"{arrow(lane)} busy" for lane in busy), *(f"{level}, most slots" for level in levels))
    return Table("Busy on average, and most slots in use", columns, rows, folded=True)


def _strips(timeline: Mapping[str, Any], seconds: float) -> tuple[list[dict[str, Any]], list[Key]]:
    """A map of one row for each lane, one below the other."""
    step = timeline["bin_s"] / seconds
    data = [
        {
            "type": "heatmap",
            "name": html.escape(lane),
            "x0": step / 2,
            "dx": step,
            "y0": place,
            "dy": 1,
            "z": [[round(100 * value, 2) for value in timeline["busy"][lane]]],
            "zmin": 0,
            "zmax": 100,
            "colorscale": ramp(colour(_TINTS.get(lane, _LINK))),
            "showscale": False,
            "ygap": 4,
            "hovertemplate": f"{html.escape(arrow(lane))}<br>at %{{x:,.4~g}}: %{{z:.3~g}} % busy<extra></extra>",
        }
        for place, lane in enumerate(_in_order(timeline))
    ]
    kinds = dict.fromkeys(
        (lane if lane in _TINTS else "links", _TINTS.get(lane, _LINK)) for lane in _in_order(timeline)
    )
    return data, [Key(f"{kind}, 0 to 100 %", colour(tint), "") for kind, tint in kinds]


def _in_order(timeline: Mapping[str, Any]) -> list[str]:
    """The device first, then the links."""
    return sorted(timeline["busy"], key=lambda lane: list(_TINTS).index(lane) if lane in _TINTS else len(_TINTS))


def _lane_names(timeline: Mapping[str, Any]) -> dict[str, Any]:
    names = [html.escape(arrow(lane)) for lane in _in_order(timeline)]
    ticks = {"tickvals": list(range(len(names))), "ticktext": names}
    return {"range": [len(names) - 0.5, -0.5], "showgrid": False, "zeroline": False, "ticks": "", **ticks}


def _line(name: str, times: Sequence[float], row: Sequence[float], tint: str, band: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(times),
        "y": list(row),
        "yaxis": f"y{band}",
        "line": {"color": tint, "width": 2},
        "hovertemplate": f"{name}<br>at %{{x:,.4~g}}: %{{y:,.3~g}}<extra></extra>",
    }


def _heading(title: str, y: float) -> dict[str, Any]:
    return {
        "text": title,
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": y,
        "yref": "paper",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 13},
    }


def _unit(timeline: Mapping[str, Any]) -> tuple[str, float]:
    """In which time is told, and its seconds."""
    end_s = timeline["bin_s"] * max((len(row) for row in timeline["busy"].values()), default=0)
    units = (("hours", 3600.0, 3), ("minutes", 60.0, 10), ("seconds", 1.0, 2), ("milliseconds", 1e-3, 0))
    return next((name, seconds) for name, seconds, least in units if end_s >= least * seconds)


def _percent(row: Sequence[float], slots: int) -> list[float]:
    return [100 * value / slots for value in row]


def _mean(row: Sequence[float]) -> float:
    return sum(row) / max(1, len(row))
