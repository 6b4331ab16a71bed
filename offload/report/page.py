"""One HTML file that asks the network for nothing: Plotly is in it, and its policy forbids browsers to fetch."""

import html
from collections.abc import Sequence

from offload.report.parts import Plot, Section, Table
from tiers.errors import InvalidOptionError

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 0 1rem 3rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
h1, h2, h3, dd, p { overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.5rem 0 0; } p { margin: 0.2rem 0; color: #555; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1rem; } dt { color: #555; } dd { margin: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.875rem; white-space: nowrap; }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
"""


def page_html(title: str, sections: Sequence[Section]) -> str:
    """The page; the same sections give the same text. InvalidOptionError where Plotly is not installed."""
    code = _plotly_code()  # before anything is drawn
    body = "\n".join(_section(section, number) for number, section in enumerate(sections, 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
<script>{code}</script>
</head>
<body>
<h1>{html.escape(title)}</h1>
<noscript><p>The plots need JavaScript; the tables below them say the same.</p></noscript>
{body}
</body>
</html>
"""


def _section(section: Section, number: int) -> str:
    facts = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in section.facts.items())
    plots = "\n".join(_plot(plot, f"plot-{number}-{i}") for i, plot in enumerate(section.plots, 1))
    tables = "\n".join(map(_table, section.tables))
    return f"<section>\n<h2>{html.escape(section.title)}</h2>\n<dl>{facts}</dl>\n{plots}\n{tables}\n</section>"


def _plot(plot: Plot, name: str) -> str:
    from plotly.io import to_html

    drawn = to_html(
        plot.figure,
        config={"responsive": True, "displaylogo": False, "displayModeBar": False},
        include_plotlyjs=False,
        full_html=False,
        div_id=name,
        default_height=f"{plot.figure['layout']['height']}px",
    )
    return f"<h3>{html.escape(plot.title)}</h3>\n<p>{html.escape(plot.reading)}</p>\n{drawn}"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells in table.rows
    )
    return (
        f'<h3>{html.escape(table.title)}</h3>\n<div class="scroll"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _plotly_code() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        message = "offload report draws with Plotly, which is not installed; pip install 'offload-runtime[report]'"
        raise InvalidOptionError(message) from None
    return str(get_plotlyjs())
