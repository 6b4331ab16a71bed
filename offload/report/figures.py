"""Figures as Plotly reads them: lying bars, lines, and maps. Narrow screens get all of the width."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from offload.report.parts import Figure, Key, alike, short

Values = Sequence[float | None]
FONT_PX = 12
_BAR_PX, _LINE_PX, _AROUND_PX = 24, 18, 84
"""Height of a bar, of a line of its label, and of what is around the bars."""

_LABEL_WIDTH = 20
"""Letters in a line of a label: less than half of a phone's width."""

_COLOURS = tuple(f"var(--c{number})" for number in range(1, 9))
_MARKS = (("circle", "●"), ("square", "■"), ("diamond", "◆"), ("triangle-up", "▲"), ("triangle-down", "▼"))
_DASHES = ("solid", "dash", "dot")
MUTED, FAINT = "var(--muted)", "var(--faint)"
RAMP = ((0, 0.05), (0.1, 0.3), (1, 0.8))
"""Shares of the most, and how opaque their colour is: what is little is to be seen too."""


def colour(number: int) -> str:
    """One of eight that are told apart also by those who see fewer."""
    return _COLOURS[number % len(_COLOURS)]


def ramp(tint: str) -> list[list[float | str]]:
    """From almost nothing up to a colour, as Plotly has it."""
    return [[share, f"{tint}@{opaque}"] for share, opaque in RAMP]


def bars(
    names: Sequence[str],
    series: Mapping[str, Values],
    unit: str,
    *,
    stacked: bool = False,
    line_at: float | None = None,
    colours: Sequence[str] = _COLOURS,
) -> Figure:
    """A bar for each name, or with more than one series one for each of them, side by side or ``stacked``.

    ``line_at`` draws a line across all bars there.
    """
    labels = [wrapped(name) for name in names]
    text_px = _LINE_PX * sum(label.count("<br>") + 1 for label in labels)
    data = []
    for i, (name, values) in enumerate(series.items()):
        trace: dict[str, Any] = {"type": "bar", "orientation": "h", "name": html.escape(name), "y": labels}
        trace |= {"x": list(values), "marker": {"color": colours[i % len(colours)]}}
        trace["hovertemplate"] = f"%{{y}}<br>{html.escape(name)}: %{{x:,.4~g}} {html.escape(unit)}<extra></extra>"
        if not stacked:
            trace |= {"text": alike(values), "textposition": "outside", "cliponaxis": False}
        data.append(trace)
    deep = 1 if stacked else len(series)
    parts = layout(_AROUND_PX + max(text_px, (_BAR_PX * deep + 8) * len(names))) | {
        "margin": {"l": 8, "r": 14 if stacked else 38, "t": 12, "b": 8},
        "barmode": "stack" if stacked else "group",
        "bargap": 0.25,
        "xaxis": axis(unit, **_range(series), fixedrange=True),
        "yaxis": axis(autorange="reversed", type="category", fixedrange=True, showgrid=False),
    }
    if line_at is not None:
        line = {"dash": "dash", "color": "var(--fg)", "width": 1.5}
        parts["shapes"] = [
            {
                "type": "line",
                "x0": line_at,
                "x1": line_at,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": line,
                "layer": "below",
            }
        ]
    keys = [Key(name, colours[i % len(colours)], traces=[i]) for i, name in enumerate(series)]
    return Figure(data, parts, keys if len(keys) > 1 else ())


def lines(
    series: Mapping[str, tuple[Sequence[float | str], Values]],
    x_axis: str,
    y_axis: str,
    *,
    log_x: bool = False,
    muted: str = "",
    height: int = 360,
) -> Figure:
    """A line for each of the series (x, y), with a mark at every point; x may be names, which are in no order.

    The one called ``muted`` is grey: it is there to compare the others with.
    """
    data, keys = [], []
    is_named = any(isinstance(value, str) for x, _ in series.values() for value in x)
    for i, (name, (x, y)) in enumerate(series.items()):
        places = [html.escape(value) if isinstance(value, str) else value for value in x]
        look = style(i, is_muted=name == muted)
        data.append(
            {
                "type": "scatter",
                "mode": "markers" if is_named else "lines+markers",
                "name": html.escape(name),
                "x": places,
                "y": list(y),
                "line": look["line"],
                "marker": look["marker"] | ({"size": 10} if is_named else {}),
                "hovertemplate": f"{html.escape(name)}<br>%{{x}}: %{{y:,.4~g}}<extra></extra>",
            }
        )
        keys.append(Key(name, look["line"]["color"], look["sign"], [i]))
    kind = {"type": "log", "dtick": 1} if log_x else {"type": "category"} if is_named else {}
    parts = layout(height) | {"xaxis": axis(x_axis, **kind), "yaxis": axis(y_axis, rangemode="tozero")}
    return Figure(data, parts, keys if len(keys) > 1 else ())


def cells(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], x_axis: str, unit: str
) -> Figure:
    """A map: the larger a value, the more of the colour its cell has."""
    most = max((value for row in values for value in row), default=0.0)
    fits = len(columns) <= 10
    data = {
        "type": "heatmap",
        "x": list(columns),
        "y": [wrapped(row) for row in rows],
        "z": [list(row) for row in values],
        "zmin": 0,
        "zmax": most or 1,
        "colorscale": ramp(colour(1)),
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": f"%{{y}}, %{{x}}<br>%{{z:.3~g}} {unit}<extra></extra>",
    }
    if fits:
        texts = [["" if abs(value) < 0.05 else f"{value:.1f}" for value in row] for row in values]
        data |= {"text": texts, "texttemplate": "%{text}", "textfont": {"size": FONT_PX, "color": "var(--fg)"}}
    parts = layout(_AROUND_PX + 40 + 28 * len(rows)) | {
        "xaxis": axis(x_axis, type="category", fixedrange=True, showgrid=False, ticks=""),
        "yaxis": axis(autorange="reversed", type="category", fixedrange=True, showgrid=False, ticks=""),
    }
    return Figure([data], parts, [Key(f"0 to {short(most)} {unit}", colour(1), "")])


def style(number: int, *, is_muted: bool = False) -> dict[str, Any]:
    """How a line is told from others: keys ``line``, ``marker`` and ``sign``, which is the mark as a letter."""
    if is_muted:
        symbol, sign, tint, dash = "x", "✕", MUTED, "dash"
    else:
        symbol, sign = _MARKS[number % len(_MARKS)]
        tint, dash = colour(number), _DASHES[number // len(_COLOURS) % len(_DASHES)]
    return {
        "line": {"color": tint, "dash": dash, "width": 2},
        "marker": {"color": tint, "symbol": symbol, "size": 7},
        "sign": sign,
    }


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis whose labels take the room they need."""
    told = {"separatethousands": True, "exponentformat": "none"}
    lined = {"gridcolor": "var(--grid)", "zerolinecolor": "var(--rule)", "linecolor": "var(--rule)"}
    named = {"title": {"text": html.escape(title), "standoff": 8}} if title else {}
    return {"automargin": True, "tickfont": {"size": FONT_PX}, **told, **lined, **named, **more}


def layout(height: int) -> dict[str, Any]:
    """What all figures have in common; the legend is not Plotly's."""
    return {
        "autosize": True,
        "height": height,
        "margin": {"l": 8, "r": 14, "t": 12, "b": 8},
        "showlegend": False,
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": FONT_PX, "color": "var(--fg)", "family": "system-ui, sans-serif"},
        "hoverlabel": {"font": {"size": 13}},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--soft)", "activecolor": "var(--fg)"},
    }


def _range(series: Mapping[str, Values]) -> dict[str, Any]:
    """From 0 on; where bars go to the left too, with room for what is written at their ends."""
    known = [value for values in series.values() for value in values if value is not None]
    least, most = min(known, default=0.0), max(known, default=0.0)
    room = 0.2 * (most - least)
    return {"rangemode": "tozero"} if least >= 0 else {"range": [least - room, max(most, 0.0) + room]}


def wrapped(name: str) -> str:
    """A label in lines that leave the plot its room."""
    return "<br>".join(map(html.escape, textwrap.wrap(name, _LABEL_WIDTH) or ["–"]))
