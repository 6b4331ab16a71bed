"""What HILOS reports of its steps beyond attention near storage (ASPLOS 2026), and what the way of the bytes costs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
"""Tokens written together: those of a page."""
_MANY, _FEW, _ONE = SharedLink(16), SharedLink(8), SharedLink(1)
_WHERE = "OPT-13B at batch 16 and 16,384 tokens on an A100, which are ours: the cell's own workload is not known"


def hilos_rows() -> Iterator[Row]:
    """Its ablation, at up to 16 drives behind one link."""
    workload = replace(workload_of("opt-13b", _BATCH), prompt_tokens=_TOKENS)
    host = Host(load_profile("a100"))
    yield _link_bytes(workload)
    yield from _input_shares(workload, host)
    for name, ours, paper, note in _gains(_Steps(workload, host)):
        yield f"HILOS: {name}", "x", ours, paper, note


def _link_bytes(workload: Workload) -> Row:
    tokens = 1024
    moved = FilesOverLink(_MANY).link_nbytes(workload, tokens) / NearStorage(_MANY).link_nbytes(workload, tokens)
    name = "HILOS: link bytes, FlexGen / attention near storage, 1,024 tokens"
    return name, "x", moved, (tokens + 1) / 2, "exact"


def _input_shares(workload: Workload, host: Host) -> Iterator[Row]:
    """Which share of the cache is best stored as the input of its projections."""
    share, formula = _fastest_share(_MANY, workload, host), best_x_share(_MANY, workload, host)
    name = "HILOS: share of X that is fastest, search / formula"
    yield name, "x", share / formula, 1.0, "they are in balance"
    link, flash = _MANY.link_bytes_per_s, _MANY.flash_bytes_per_s
    ideal = best_x_share(_MANY, workload, None)
    note = "2 link / (flash + link): a GPU of any speed"
    yield "HILOS: the same share, GPU of any speed, 16 drives", "share", ideal, 2 * link / (flash + link), note
    note = f"predicted: the GPU's arithmetic is the limit, not the link; {_WHERE}"
    yield "HILOS: the same share, A100, 16 drives", "share", formula, 0.5, note


@dataclass(frozen=True, slots=True)
class _Steps:
    """Seconds of a decode step at ``_TOKENS`` tokens."""

    workload: Workload
    host: Host

    def near(self, machine: SharedLink, *, write_back: int = 1, with_inputs: bool = False) -> float:
        """With attention near storage; ``with_inputs``: as much of the cache as is best is stored as X."""
        share = best_x_share(machine, self.workload, self.host) if with_inputs else 0.0
        return NearStorage(machine, write_back, share).step_s(self.workload, self.host, _TOKENS)

    def files(self, machine: SharedLink) -> float:
        """Of FlexGen, with the cache in files."""
        return FilesOverLink(machine).step_s(self.workload, self.host, _TOKENS)

    def in_memory(self, machine: SharedLink) -> float:
        """Of FlexGen with the cache in host memory: it crosses the link in every step."""
        return self.workload.kv_nbytes(_TOKENS) / machine.link_bytes_per_s


def _gains(steps: _Steps) -> Iterator[tuple[str, float, float, str]]:
    """How many times as fast each of its parts is: name, ours, the paper's, and what is to be said of it."""
    written = steps.near(_MANY, write_back=_GROUP)
    whole = steps.near(_MANY, write_back=_GROUP, with_inputs=True)
    near = steps.files(_MANY) / steps.near(_MANY)
    yield "attention near storage / FlexGen, 16 drives", near, 3.39, "calibrated: FlexGen"
    alone = steps.files(_ONE) / steps.near(_ONE, write_back=_GROUP)
    yield "the same, 1 drive, writes delayed", alone, 1.0, "predicted"
    note = "calibrated: a row of a page written alone"
    yield "+ delayed writes, 16 drives", steps.near(_MANY) / written, 1.32, note
    eight = steps.near(_FEW, write_back=_GROUP) / steps.near(_FEW, write_back=_GROUP, with_inputs=True)
    note = "predicted: the paper's best; it does not say at how many drives"
    yield "+ X-cache, 8 drives", eight, 1.64, note
    yield "+ X-cache, 16 drives", written / whole, 1.64, "missed: recomputing takes the GPU too long here"
    yield "all of it / FlexGen, 16 drives", steps.files(_MANY) / whole, 7.86, "missed: as the X-cache at 16 drives"
    note = "predicted: the paper has 1.88 to 2.49"
    yield "all of it / FlexGen in host memory, 16 drives", steps.in_memory(_MANY) / whole, 1.88, note


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


def _fastest_share(machine: SharedLink, workload: Workload, host: Host) -> float:
    shares = np.linspace(0, 1, 1001)
    times = [NearStorage(machine, _GROUP, float(share)).step_s(workload, host, _TOKENS) for share in shares]
    return float(shares[int(np.argmin(times))])
