"""Figures as Plotly reads them: bars lying one below the other, and lines. Narrow screens get all of the width."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

Values = Sequence[float | None]
_BAR_PX, _LINE_PX, _AROUND_PX = 26, 20, 130
"""Height of a bar, of a line of its label, and of what is around the bars."""

_LABEL_WIDTH = 22
"""Letters in a line of a label: less than half of a phone's width."""


def bars(
    names: Sequence[str],
    series: Mapping[str, Values],
    axis: str,
    *,
    stacked: bool = False,
    line_at: float | None = None,
) -> dict[str, Any]:
    """A bar for each name, or with more than one series one for each of them, side by side or ``stacked``.

    ``line_at`` draws a line across all bars there.
    """
    labels = ["<br>".join(map(html.escape, textwrap.wrap(name, _LABEL_WIDTH) or ["–"])) for name in names]
    text_px = _LINE_PX * sum(label.count("<br>") + 1 for label in labels)
    data = [
        {"type": "bar", "orientation": "h", "name": html.escape(name), "y": labels, "x": list(values)}
        for name, values in series.items()
    ]
    deep = 1 if stacked else len(series)
    layout: dict[str, Any] = _layout(len(series)) | {
        "barmode": "stack" if stacked else "group",
        "height": _AROUND_PX + max(text_px, _BAR_PX * deep * len(names)),
        "xaxis": {"title": {"text": axis}, "automargin": True, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"},
    }
    if line_at is not None:
        layout["shapes"] = [
            {"type": "line", "x0": line_at, "x1": line_at, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot"}}
        ]
    return {"data": data, "layout": layout}


def lines(
    series: Mapping[str, tuple[Sequence[float | str], Values]], x_axis: str, y_axis: str, *, log_x: bool = False
) -> dict[str, Any]:
    """A line for each of the series (x, y), with a mark at every point; x may be names, which are in no order."""
    data = []
    is_named = any(isinstance(value, str) for x, _ in series.values() for value in x)
    for name, (x, y) in series.items():
        places = [html.escape(value) if isinstance(value, str) else value for value in x]
        mode = "markers" if is_named else "lines+markers"
        data.append({"type": "scatter", "mode": mode, "name": html.escape(name), "x": places, "y": list(y)})
    layout = _layout(len(series)) | {
        "height": 420,
        "xaxis": {
            "title": {"text": x_axis},
            "automargin": True,
            "type": "log" if log_x else "category" if is_named else "linear",
        },
        "yaxis": {"title": {"text": y_axis}, "automargin": True},
    }
    return {"data": data, "layout": layout}


def _layout(series: int) -> dict[str, Any]:
    """A legend above the plot takes no width from it; a drag on a phone is to scroll the page."""
    return {
        "autosize": True,
        "margin": {"l": 8, "r": 8, "t": 48, "b": 8},
        "showlegend": series > 1,
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "dragmode": False,
    }
