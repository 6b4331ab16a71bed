import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offload.trace import record_modules, write_trace
from tiers.errors import InvalidOptionError
from tiers.timeline import Span, Timeline


def written(timeline: Timeline, path: Path) -> tuple[dict[int, str], list[dict[str, Any]]]:
    """Names of the rows by process id, and the spans, as a viewer would read them."""
    write_trace(timeline, path)
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    rows = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    return rows, [event for event in events if event["ph"] == "X"]


def test_spans_keep_their_times_rows_and_bytes(tmp_path: Path) -> None:
    timeline = Timeline([Span("compute", "layer 0", 100.0, 100.5), Span("nvme->device", "demand", 100.25, 101.0, 4096)])
    rows, spans = written(timeline, tmp_path / "trace.json")
    assert [(rows[span["pid"]], span["name"], span["ts"], span["dur"]) for span in spans] == [
        ("compute", "layer 0", 0.0, 500000.0),
        ("nvme->device", "demand", 250000.0, 750000.0),
    ]
    assert [span["args"] for span in spans] == [{}, {"bytes": 4096}]


def test_spans_of_a_lane_do_not_overlap(tmp_path: Path) -> None:
    """As many requests as a drive has in flight at a time, in as few lanes as they need."""
    times = [(0, 4), (1, 2), (1, 5), (2, 3), (4, 6), (6, 7)]
    timeline = Timeline([Span("nvme->device", str(i), float(a), float(b)) for i, (a, b) in enumerate(times)])
    _, spans = written(timeline, tmp_path / "trace.json")
    lanes: dict[int, list[tuple[float, float]]] = {}
    for span in spans:
        lanes.setdefault(span["tid"], []).append((span["ts"], span["ts"] + span["dur"]))
    assert len(lanes) == 3
    for lane in lanes.values():
        lane.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(lane))


def test_nothing_happened(tmp_path: Path) -> None:
    assert written(Timeline(), tmp_path / "trace.json") == ({}, [])


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"--trace-out .*none/trace.json: No such file.*; name a file"):
        write_trace(Timeline(), tmp_path / "none" / "trace.json")


class Twice(nn.Module):
    """Runs what it holds twice, and fails if told so."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(self.inner(x))
        if self.fails:
            raise FloatingPointError
        return y


def test_records_every_run_of_a_module_one_in_another() -> None:
    timeline, model = Timeline(), Twice()
    record_modules({"outer": model, "inner": model.inner}, timeline)
    model(torch.zeros(2))
    assert [(span.row, span.name) for span in timeline.spans] == [
        ("compute", "inner"),
        ("compute", "inner"),
        ("compute", "outer"),
    ]
    first, second, outer = timeline.spans
    assert outer.start_s <= first.start_s <= first.end_s <= second.start_s <= second.end_s <= outer.end_s


def test_records_a_run_that_fails() -> None:
    timeline, model = Timeline(), Twice()
    record_modules({"outer": model}, timeline)
    model.fails = True
    with pytest.raises(FloatingPointError):
        model(torch.zeros(2))
    model.fails = False
    model(torch.zeros(2))
    assert [span.name for span in timeline.spans] == ["outer", "outer"]
    assert timeline.spans[0].end_s <= timeline.spans[1].start_s
