"""What InstAttention reports of its drive: bytes and rates of its Table III, and what other emulators say of flash."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from offload.bench.csd_figures import workload_of
from offload.simulation.drive_setup import CsdSetup
from simulators.flash.closed_loop import closed_loop_s
from simulators.flash.drive import DriveParameters
from simulators.flash.drive_file import load_drive
from simulators.flash.makespan import closed_form_s, exact_s, striped_bytes_per_s
from simulators.flash.operations import operation_times, queues_of
from simulators.serving.geometry_fit import TABLE_3, rates_of
from simulators.serving.kv_pages import pages_of

_CONTEXTS = 16
_FITTED = "fitted: with the other two rates on dies, tR, tPROG and pages a program"

Row = tuple[str, str, float, float, str]
"""Name, unit, ours, paper, note."""


def table_rows(setup: CsdSetup) -> Iterator[Row]:
    """Table III: one layer of OPT-13B at batch 64, 1024 + 1024 tokens."""
    workload = workload_of("opt-13b", 64)
    pages = pages_of(setup.drive, workload.shape, workload.batch, 1, workload.tokens)
    page_gb = pages.jobs * setup.drive.page_nbytes / 1e9
    prompt = workload.prompt_tokens
    phases = [phase for tokens in workload.contexts(_CONTEXTS) for phase in pages.sparse(tokens, setup.selection)]
    num_read = workload.new_tokens / _CONTEXTS * sum(phase.pages.num_pages for phase in phases)
    read_gb = num_read * setup.drive.page_nbytes / 1e9
    written = pages.num_pages(workload.tokens) - pages.num_pages(prompt)
    in_prefill = pages.num_pages(prompt, channel_copy=False) * page_gb
    copied = "the paper counts what crosses the link; the keys' second copy is written beside it"
    yield "Table III: prefill write", "GB per layer", in_prefill, 1.342, copied
    run = f"calibrated: runs of {setup.selection.mean_run:g} tokens; read page by page, by no ratio"
    yield "Table III: decode read", "GB per layer", read_gb, 1085.65, run
    tail = "keys twice; the paper's 1.44 copies may leave the last group in memory"
    yield "Table III: decode write", "GB per layer", written * page_gb, 1.93, tail
    rates = rates_of(setup.drive, workload, setup.selection)
    yield "Table III: decode read rate", "GB/s", rates.decode_read / 1e9, TABLE_3.decode_read / 1e9, _FITTED
    yield "Table III: prefill write rate", "GB/s", rates.prefill_write / 1e9, TABLE_3.prefill_write / 1e9, _FITTED
    yield "Table III: decode write rate", "GB/s", rates.decode_write / 1e9, TABLE_3.decode_write / 1e9, _FITTED


def flash_rows() -> Iterator[Row]:
    """The timing itself, on geometries that others have published numbers of."""
    one = closed_loop_s(load_drive("970pro"), [(0, 0)], 1) * 1e6
    yield "one read of 4 KiB, NVMeVirt's 970 PRO", "us", one, 63.6, "firmware + tR + channel + link"
    for dies in (8, 16):
        drive = DriveParameters(dies_per_channel=dies, command_s=0.2e-6)
        yield from _striped_rows(drive)
    mqsim = DriveParameters(dies_per_channel=8, command_s=0.29e-6, firmware_s=0.0)
    for mega, latency in ((333, 52.0), (1000, 44.0)):
        drive = replace(mqsim, channel_bytes_per_s=mega * 1e6)
        ours = closed_loop_s(drive, [(0, 0)], 1) * 1e6
        yield f"one read of 4 KiB, MQSim at {mega} MT/s", "us", ours, latency, "MQSim cuts off the fraction"
    alone = 1e-3 / closed_loop_s(replace(mqsim, channel_bytes_per_s=500e6), [(0, 0)], 1)
    yield "4 KiB reads one at a time, MQSim at 500 MT/s", "thousand/s", alone, 20.5, "tR + command + channel + link"
    # Four lanes of 1 GB/s, on which 128 bytes travel with 28 of headers.
    drive = replace(mqsim, channel_bytes_per_s=1e9, link_bytes_per_s=4e9 * 128 / 156)
    places = np.random.default_rng(0).integers(0, 8, (20_000, 2)).tolist()
    rate = len(places) / closed_loop_s(drive, [(channel, die) for channel, die in places], 512) / 1e3
    yield "4 KiB reads at depth 512, MQSim at 1000 MT/s", "thousand/s", rate, 847.0, "simulators differ by 6 to 18 %"


def _striped_rows(drive: DriveParameters) -> Iterator[Row]:
    page = np.arange(100_000)
    stripe = page // drive.channels
    queues = queues_of(drive, page % drive.channels, stripe % drive.dies_per_channel, np.zeros(len(page), np.uint8))
    times = operation_times(drive)
    exact = len(page) * drive.page_nbytes / exact_s(queues, times) / 1e9
    formula = striped_bytes_per_s(
        drive.channels, drive.dies_per_channel, drive.page_nbytes, drive.sense_s, drive.page_transfer_s
    )
    bound = len(page) * drive.page_nbytes / closed_form_s(queues, times) / 1e9
    note = f"against min(channels, dies); the closed form of the queues says {bound:.3f}"
    yield f"striped reads, {drive.dies_per_channel} dies a channel, exact", "GB/s", exact, formula / 1e9, note
