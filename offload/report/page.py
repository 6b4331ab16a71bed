"""One HTML file that asks the network for nothing: all it needs is in it, and its policy forbids browsers to fetch."""

import html
import json
from collections.abc import Sequence
from importlib.resources import files

from offload.report.figures import RAMP
from offload.report.parts import Figure, Key, Plot, Section, Table
from tiers.errors import InvalidOptionError

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_HINT = "Drag across to zoom in, double-click to see all; with a finger, use the buttons above the plot."


def page_html(title: str, sections: Sequence[Section]) -> str:
    """The page; the same sections give the same text. InvalidOptionError where Plotly is not installed."""
    code = _plotly_code()  # before anything is drawn
    heads = [f"<h2>{html.escape(section.title)}</h2>\n" if len(sections) > 1 else "" for section in sections]
    parts = zip(sections, heads, strict=True)
    body = "\n".join(_section(section, head, number) for number, (section, head) in enumerate(parts, 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>{_file("page.css")}</style>
<noscript><style>.plot {{ display: none; }}</style></noscript>
<script>{code}</script>
</head>
<body>
<h1>{html.escape(title)}</h1>
<noscript><p>The plots need JavaScript; the tables say the same.</p></noscript>
{_contents(sections)}
{body}
<script>{_file("page.js")}</script>
</body>
</html>
"""


def _contents(sections: Sequence[Section]) -> str:
    """Of a page that holds more than one."""
    if len(sections) < 2:
        return ""
    entries = "\n".join(
        f'<li><a href="#section-{number}">{html.escape(section.title)}</a></li>'
        for number, section in enumerate(sections, 1)
    )
    return f'<nav aria-label="Contents"><ol>\n{entries}\n</ol></nav>'


def _section(section: Section, head: str, number: int) -> str:
    facts = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in section.facts.items())
    finding = f'<p class="finding">{html.escape(section.finding)}</p>' if section.finding else ""
    plots = "\n".join(_plot(plot, f"plot-{number}-{i}") for i, plot in enumerate(section.plots, 1))
    tables = "\n".join(map(_table, section.tables))
    head += f"{finding}\n<dl>{facts}</dl>"
    return f'<section id="section-{number}">\n{head}\n{plots}\n{tables}\n</section>'


def _plot(plot: Plot, name: str) -> str:
    figure = plot.figure
    title = f"<h3>{html.escape(plot.title)}</h3>"
    hint = f'<p class="hint">{_HINT}</p>' if figure.zooms else ""
    label = html.escape(plot.title, quote=True)
    drawn = (
        f'<p>{html.escape(plot.reading)}</p>\n{hint}<div class="canvas" role="img" aria-label="{label}" '
        f'style="height:{figure.layout["height"]}px"></div>\n{_legend(figure.legend)}\n'
        f'<script type="application/json">{_json(figure)}</script>'
    )
    body = f"<details><summary>{title}</summary>\n{drawn}\n</details>" if plot.folded else f"{title}\n{drawn}"
    return f'<div class="plot" id="{name}"{" data-zooms" * figure.zooms}>\n{body}\n</div>'


def _legend(keys: Sequence[Key]) -> str:
    return f'<ul class="legend">{"".join(map(_key, keys))}</ul>' if keys else ""


def _key(key: Key) -> str:
    if not key.sign:
        stops = (f"color-mix(in srgb,{key.colour} {opaque:.0%},transparent) {at:.0%}" for at, opaque in RAMP)
        style = f"background:linear-gradient(90deg,{','.join(stops)})"
        return f'<li><span><i class="ramp" style="{style}"></i>{html.escape(key.name)}</span></li>'
    sign = f'<i style="color:{key.colour}">{key.sign}</i>{html.escape(key.name)}'
    if not key.traces:
        return f"<li><span>{sign}</span></li>"
    traces = " ".join(map(str, key.traces))
    return f'<li><button type="button" aria-pressed="true" data-traces="{traces}">{sign}</button></li>'


def _table(table: Table) -> str:
    title = f"<h3>{html.escape(table.title)}</h3>"
    units_stay = (column.replace(", ", ",\u00a0") for column in table.columns)
    head = "".join(f"<th>{html.escape(column)}</th>" for column in units_stay)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells in table.rows
    )
    body = (
        f'<div class="scroll" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )
    return f"<details><summary>{title}</summary>\n{body}\n</details>" if table.folded else f"{title}\n{body}"


def _json(figure: Figure) -> str:
    """No tag can end or begin in it."""
    given = {"data": figure.data, "layout": figure.layout}
    return json.dumps(given, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _file(name: str) -> str:
    return files("offload.report").joinpath(name).read_text(encoding="utf-8")


def _plotly_code() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        message = "offload report draws with Plotly, which is not installed; pip install 'offload-runtime[report]'"
        raise InvalidOptionError(message) from None
    return str(get_plotlyjs())
