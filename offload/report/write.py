"""From files to a file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from offload.report.bench_section import bench_section
from offload.report.page import page_html
from offload.report.parts import Section
from offload.report.results import Kind, Result, read_result
from offload.report.run_section import run_section
from offload.report.simulate_section import simulate_section
from offload.report.trace_sections import trace_events_section, trace_info_section
from offload.report.tune_section import tune_section
from offload.whole_file import write_whole

_SECTIONS: Mapping[Kind, Callable[[Result], Section]] = {
    Kind.SIMULATE: simulate_section,
    Kind.BENCH: bench_section,
    Kind.RUN: run_section,
    Kind.TRACE_INFO: trace_info_section,
    Kind.TRACE_EVENTS: trace_events_section,
    Kind.TUNE: tune_section,
}


def write_report(results: Sequence[Path], out: Path) -> dict[str, object]:
    """Writes the page whole or not at all, and says what went into it.

    Raises InvalidOptionError for a file that is no result, a place that cannot be written, or where Plotly is missing.
    """
    read = [read_result(path) for path in results]
    sections = [_SECTIONS[result.kind](result) for result in read]
    title = sections[0].title if len(sections) == 1 else f"Offload report of {len(sections)} results"
    page = page_html(title, sections)
    write_whole(out, page)
    return {
        "out": out,
        "bytes": len(page.encode()),
        "results": [{"file": result.path, "kind": result.kind.value} for result in read],
        "plots": sum(len(section.plots) for section in sections),
    }
