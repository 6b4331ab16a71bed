"""What HILOS reports of its steps beyond attention near storage (ASPLOS 2026), and what the way of the bytes costs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from offload.bench.csd_figures import workload_of
from offload.bench.csd_table import Row
from offload.simulation.drive_setup import CsdSetup
from simulators.published import load_profile
from simulators.serving.base import Host, Workload
from simulators.serving.in_storage import InStorage
from simulators.serving.link_path import PATHS
from simulators.serving.near_storage import FilesOverLink, NearStorage, SharedLink, best_x_share

_BATCH, _TOKENS = 16, 16_384
_GROUP = 16
_WHERE = "OPT-13B at batch 16 and 16,384 tokens on an A100, which are ours: the cell's own workload is not known"


def hilos_rows() -> Iterator[Row]:
    """Its ablation, at up to 16 drives behind one link."""
    workload = replace(workload_of("opt-13b", _BATCH), prompt_tokens=_TOKENS)
    host, many, few, one = Host(load_profile("a100")), SharedLink(), SharedLink(8), SharedLink(1)
    short = 1024
    moved = FilesOverLink(many).link_nbytes(workload, short) / NearStorage(many).link_nbytes(workload, short)
    yield "HILOS: link bytes, FlexGen / attention near storage, 1,024 tokens", "x", moved, (short + 1) / 2, "exact"
    share, formula = _fastest_share(many, workload, host), best_x_share(many, workload, host)
    yield (
        "HILOS: share of X that is fastest, search / formula",
        "x",
        share / formula,
        1.0,
        "they are in balance",
    )
    link, flash = many.link_bytes_per_s, many.flash_bytes_per_s
    ideal = best_x_share(many, workload, None)
    note = "2 link / (flash + link): a GPU of any speed"
    yield "HILOS: the same share, GPU of any speed, 16 drives", "share", ideal, 2 * link / (flash + link), note
    note = f"predicted: the GPU's arithmetic is the limit, not the link; {_WHERE}"
    yield "HILOS: the same share, A100, 16 drives", "share", formula, 0.5, note

    def step_s(machine: SharedLink, *, write_back: int = 1, with_inputs: bool = False) -> float:
        share = best_x_share(machine, workload, host) if with_inputs else 0.0
        return NearStorage(machine, write_back, share).step_s(workload, host, _TOKENS)

    def files_s(machine: SharedLink) -> float:
        return FilesOverLink(machine).step_s(workload, host, _TOKENS)

    written = step_s(many, write_back=_GROUP)
    whole = step_s(many, write_back=_GROUP, with_inputs=True)
    cells: list[tuple[str, float, float, str]] = [
        (
            "attention near storage / FlexGen, 16 drives",
            files_s(many) / step_s(many),
            3.39,
            "calibrated: FlexGen",
        ),
        ("the same, 1 drive, writes delayed", files_s(one) / step_s(one, write_back=_GROUP), 1.0, "predicted"),
        ("+ delayed writes, 16 drives", step_s(many) / written, 1.32, "calibrated: a row of a page written alone"),
        (
            "+ X-cache, 8 drives",
            step_s(few, write_back=_GROUP) / step_s(few, write_back=_GROUP, with_inputs=True),
            1.64,
            "predicted: the paper's best; it does not say at how many drives",
        ),
        (
            "+ X-cache, 16 drives",
            written / whole,
            1.64,
            "missed: recomputing takes the GPU too long here",
        ),
        (
            "all of it / FlexGen, 16 drives",
            files_s(many) / whole,
            7.86,
            "missed: as the X-cache at 16 drives",
        ),
        (
            "all of it / FlexGen in host memory, 16 drives",
            _in_memory_s(workload, many) / whole,
            1.88,
            "predicted: the paper has 1.88 to 2.49",
        ),
    ]
    for name, ours, paper, note in cells:
        yield f"HILOS: {name}", "x", ours, paper, note


def path_rows(setup: CsdSetup) -> Iterator[dict[str, Any]]:
    """InstAttention's step with bytes going peer to peer and by way of the host: no figure of the paper."""
    host = Host(setup.profile)
    for batch in (4, 64):
        workload = workload_of("opt-13b", batch)
        direct, bounced = (
            InStorage(setup.drive, setup.software, path=path).time(workload, host) for path in PATHS.values()
        )
        yield {
            "name": f"InstA by way of the host / peer to peer, batch {batch}",
            "unit": "x",
            "ours": bounced.kv_s / direct.kv_s,
            "host_bytes_per_token": bounced.host_nbytes / (batch * workload.new_tokens),
            "note": "time for keys and values; peer to peer moves no byte through the host's memory",
        }


def _in_memory_s(workload: Workload, machine: SharedLink) -> float:
    """FlexGen with the cache in host memory: it crosses the link in every step."""
    return workload.kv_nbytes(_TOKENS) / machine.link_bytes_per_s


def _fastest_share(machine: SharedLink, workload: Workload, host: Host) -> float:
    shares = np.linspace(0, 1, 1001)
    times = [NearStorage(machine, _GROUP, float(share)).step_s(workload, host, _TOKENS) for share in shares]
    return float(shares[int(np.argmin(times))])
