"""Timelines as files that Perfetto and chrome://tracing open: one row per link and per stage of the computation."""

import json
import time
from pathlib import Path

from torch import nn

from tiers.errors import InvalidOptionError
from tiers.timeline import Timeline


def record_modules(modules: dict[str, nn.Module], timeline: Timeline) -> None:
    """Record every run of the given modules on the row ``compute``."""
    for name, module in modules.items():
        starts: list[float] = []

        def before(_module: nn.Module, _args: object, starts: list[float] = starts) -> None:
            starts.append(time.perf_counter())

        def after(
            _module: nn.Module, _args: object, _output: object, name: str = name, starts: list[float] = starts
        ) -> None:
            if starts:
                timeline.record("compute", name, starts.pop())

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after, always_call=True)


def write_trace(timeline: Timeline, path: Path) -> None:
    """Write the spans in the Trace Event Format (complete events, microseconds). Raises InvalidOptionError.

    Spans of one row may overlap, as requests of a link do; each overlapping one goes to a lane of its own.
    """
    spans = sorted(timeline.spans, key=lambda span: span.start_s)
    origin = spans[0].start_s if spans else 0.0
    lanes: dict[tuple[str, int], float] = {}
    events: list[dict[str, object]] = []
    for span in spans:
        lane = 0
        while lanes.get((span.row, lane), 0.0) > span.start_s:
            lane += 1
        lanes[span.row, lane] = span.end_s
        events.append(
            {
                "name": span.name,
                "ph": "X",
                "ts": round((span.start_s - origin) * 1e6, 3),
                "dur": round((span.end_s - span.start_s) * 1e6, 3),
                "pid": span.row,
                "tid": lane,
                "args": {"bytes": span.nbytes} if span.nbytes else {},
            }
        )
    rows = dict.fromkeys(span.row for span in spans)
    pids = {row: number for number, row in enumerate(rows, start=1)}
    for event in events:
        event["pid"] = pids[str(event["pid"])]
    names = [{"name": "process_name", "ph": "M", "pid": pid, "args": {"name": row}} for row, pid in pids.items()]
    try:
        path.write_text(json.dumps({"traceEvents": names + events, "displayTimeUnit": "ms"}), encoding="utf-8")
    except OSError as error:
        raise InvalidOptionError(f"--trace-out {path}: {error.strerror}; name a file in a writable directory") from None
