"""Published numbers of InstAttention and HILOS beside those of the model, every cell with its error."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from offload.bench.csd_claims import crossing_rows, ratio_rows, share_rows
from offload.bench.csd_figures import BEYOND, CsdFigures, workload_of
from offload.bench.csd_hilos import hilos_rows, path_rows
from offload.bench.csd_order import order_rows
from offload.bench.csd_table import Row, flash_rows, table_rows
from offload.bench.header import header
from offload.bench.ticker import Progress, ticker
from offload.simulation.drive_setup import CsdSetup, csd_setup
from simulators.flash.makespan import exact_s
from simulators.flash.operations import operation_times, queues_of
from simulators.serving.kv_pages import pages_of


def bench_csd_paper(
    settings: Mapping[str, object] | None = None, *, drive: str = "instattention", progress: Progress | None = None
) -> dict[str, Any]:
    """Rows with ``name``, ``unit``, ``ours``, ``paper``, ``error`` and ``note``; see ``csd_setup`` for ``settings``.

    A note says of a cell whether a constant was calibrated on it or whether it follows from the others. With other
    settings than the published ones errors say how far these are from the paper's machine, and no more.
    """
    setup = csd_setup(settings, drive=drive)
    figures = CsdFigures(setup)
    tick = ticker(progress, total=6)
    rows: list[dict[str, Any]] = []
    for part in (
        lambda: table_rows(setup),
        lambda: ratio_rows(figures),
        lambda: itertools.chain(share_rows(figures), crossing_rows(figures), order_rows(figures)),
        flash_rows,
        hilos_rows,
    ):
        rows += [_row(row) for row in part()]
        tick()
    rows += [_groups_row(figures), *path_rows(setup), _speed_row(setup)]
    tick()
    return header(seed=setup.selection.seed) | {
        "drive": setup.drive.name,
        "settings": dict(settings or {}),
        "rows": rows,
    }


def _groups_row(figures: CsdFigures) -> dict[str, Any]:
    """What selecting whole pages is worth, which the paper does not."""
    share = figures.setup.groups.share
    return {
        "name": "whole groups / SparF, batch 256",
        "unit": "x",
        "ours": float(figures.rate(BEYOND, 256) / figures.rate("SparF", 256)),
        "note": f"{share:.3g} of the pages by summaries in the drive's memory, and no second copy of the keys",
    }


def _speed_row(setup: CsdSetup) -> dict[str, Any]:
    """How long the exact timing of a whole decode step takes: OPT-13B at batch 64, every page of every layer."""
    workload = workload_of("opt-13b", 64)
    pages = pages_of(setup.drive, workload.shape, workload.batch, 1, workload.tokens)
    number = np.arange(pages.jobs * 2 * (workload.contexts(1)[0] // pages.tokens_per_group))
    touched = pages.touched(number)
    queues = queues_of(setup.drive, touched.channel, touched.die, np.zeros(len(number), np.uint8))
    times = operation_times(setup.drive)
    exact_s(queues, times)
    start = time.perf_counter()
    for _ in range(workload.shape.layers):
        exact_s(queues, times)
    seconds = time.perf_counter() - start
    rate = queues.num_operations * workload.shape.layers / seconds / 1e6
    return {
        "name": "exact timing of one dense step, OPT-13B, batch 64",
        "unit": "s",
        "ours": seconds,
        "limit": 2.0,
        "ratio_to_limit": 2.0 / seconds,
        "note": f"{rate:.0f} million pages a second",
    }


def _row(row: Row) -> dict[str, Any]:
    name, unit, ours, paper, note = row
    return {
        "name": name,
        "unit": unit,
        "ours": float(ours),
        "paper": paper,
        "error": float(ours / paper - 1),
        "note": note,
    }
