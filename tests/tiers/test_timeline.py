"""Spans in the order in which they ended."""

import threading
import time

from tiers.timeline import Timeline


def test_a_span_ends_when_it_is_recorded() -> None:
    timeline = Timeline()
    before = time.perf_counter()
    timeline.record("nvme->device", "demand 2 blocks", before, 8192)
    timeline.record("stall", "wait", before)
    first, second = timeline.spans
    assert (first.row, first.name, first.start_s, first.nbytes) == ("nvme->device", "demand 2 blocks", before, 8192)
    assert before <= first.end_s <= second.end_s <= time.perf_counter()
    assert second.nbytes == 0


def test_links_record_from_their_own_threads() -> None:
    timeline = Timeline()

    def record(row: str) -> None:
        for _ in range(500):
            timeline.record(row, "a chunk", 0.0)

    rows = [f"row {i}" for i in range(4)]
    threads = [threading.Thread(target=record, args=(row,)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(span.row for span in timeline.spans) == sorted(rows * 500)
