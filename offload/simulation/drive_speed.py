"""What computational drives take for a workload: the emulated ones here, measured; real ones, modelled."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from offload.config import RunConfig
from offload.kv.drive_rows import InDrives
from offload.kv.drives import KVDrives
from offload.kv.new_tokens import NewTokens
from offload.kv.open_drives import MakeTiming, drive_task, start_drives
from offload.plan import Workload
from offload.plan_costs import mean_context
from offload.prospect import Prospect
from simulators.flash.command_timing import CommandTiming
from simulators.flash.drive import DriveParameters
from simulators.flash.drive_file import load_drive
from simulators.generation_shape import DriveCosts
from tiers.csd.geometry import FlashGeometry
from tiers.csd.timing import DriveTiming

_MOST_NBYTES = 96 * 2**20
"""Of keys and values to try with: as few layers as exceed what a processor's cache holds."""
_ROUNDS = 3
_FIRST_TOKENS = 16


@dataclass(frozen=True, slots=True)
class DriveSpeeds:
    """Seconds of the same commands: of processes on this machine, and of the drives that these stand for."""

    emulated: DriveCosts
    modelled: DriveCosts


def measure_drives(
    prospect: Prospect, config: RunConfig, workload: Workload, drive: DriveParameters | None = None
) -> DriveSpeeds:
    """Start the drives of ``config`` and have them do what ``workload`` asks of one layer, for some layers in turn.

    Keys and values are random, so that an engine that chooses chooses at random. Modelled times are those of ``drive``,
    by default ``instattention``, for the pages that were touched. Takes a second or two. Raises as ``open_drives``.
    """
    attention = prospect.architecture.attention
    tokens = max(1, mean_context(workload))
    layer_nbytes = workload.batch * tokens * prospect.sizes.kv_nbytes_per_token_layer
    layers = max(1, min(prospect.sizes.num_layers, _MOST_NBYTES // max(1, layer_nbytes)))
    drive = drive or load_drive("instattention")
    config = replace(config, dense_layers=())  # which may be others than the few that are tried
    task, geometry = drive_task(config, prospect, layers, workload)
    drives = KVDrives(start_drives(config, geometry, timing_of(drive)), task, InDrives())
    try:
        speeds = _Probe(drives, layers, tokens, workload.batch).speeds(attention.query // attention.kv.key_dim)
    finally:
        drives.close()
    # Nobody models the command that reads back: all of it crosses the links.
    nbytes = workload.batch * prospect.sizes.kv_nbytes_per_token_layer
    back_s = nbytes / (config.csd * drive.link_bytes_per_s)
    return replace(speeds, modelled=replace(speeds.modelled, read_s=back_s))


def timing_of(drive: DriveParameters) -> MakeTiming:
    """``drive`` with pages as the model's heads want them, on as many dies as are emulated."""

    def make(geometry: FlashGeometry) -> DriveTiming:
        like = {name: getattr(geometry, name) for name in ("page_nbytes", "channels", "dies_per_channel")}
        return CommandTiming(replace(drive, **like))

    return make


@dataclass(frozen=True, slots=True)
class _Probe:
    drives: KVDrives
    layers: int
    tokens: int
    batch: int

    def speeds(self, heads: int) -> DriveSpeeds:
        drives, draw = self.drives, torch.Generator().manual_seed(0)
        kv_heads, width = drives.kv_shape
        keys, values = (torch.randn(self.tokens, kv_heads, width, generator=draw) for _ in range(2))
        rows = drives.new_sequences(self.batch)

        def write() -> None:
            for layer in range(self.layers):
                for row in rows:
                    drives.write(layer, row, 0, keys, values)
            drives.read(self.layers - 1, rows[-1], 1)  # ends when all are written

        def read() -> None:
            for row in rows:
                drives.read(0, row, self.tokens)

        query, new = (torch.randn(self.batch, count, width, generator=draw) for count in (heads, kv_heads))
        token = NewTokens(new, new)

        def attend(step: int) -> None:
            starts = [self.tokens + step] * self.batch
            for layer in range(self.layers):
                drives.ask(layer, rows, starts, query, token).wait()

        # What a first command takes more than the next ones is not asked. It is not taken back: erasing takes time.
        few = min(_FIRST_TOKENS, self.tokens)
        other = drives.new_sequences(self.batch)
        for row in other:
            drives.write(0, row, 0, keys[:few], values[:few])
        drives.ask(0, other, [few] * self.batch, query, token).wait()
        written, back = self._timed(write), self._timed(read)
        attended = [self._timed(partial(attend, step)) for step in range(_ROUNDS)]
        emulated, modelled = (
            DriveCosts(
                write_s=written[which] / (self.layers * self.tokens),
                read_s=back[which] / self.tokens,
                attend_s=statistics.median(times[which] for times in attended) / self.layers,
            )
            for which in (0, 1)
        )
        return DriveSpeeds(emulated, modelled)

    def _timed(self, call: Callable[[], None]) -> tuple[float, float]:
        """Seconds here, and seconds that real drives would have taken."""
        start_s, modelled_s = time.perf_counter(), self.drives.modelled_s
        call()
        return time.perf_counter() - start_s, self.drives.modelled_s - modelled_s
