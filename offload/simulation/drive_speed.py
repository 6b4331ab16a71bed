"""What computational drives take for a workload: the emulated ones here, measured; real ones, modelled."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from offload.config import RunConfig
from offload.device import is_gpu
from offload.kv.cache import layer_windows
from offload.kv.drive_rows import InDrives
from offload.kv.drives import KVDrives
from offload.kv.new_tokens import NewTokens
from offload.kv.open_drives import MakeTiming, drive_task, start_drives
from offload.matrices import matrices_of
from offload.plan import Workload
from offload.plan_kv import mean_context
from offload.prospect import Prospect
from offload.speed.layer_products import LayerProducts
from simulators.flash.command_timing import CommandTiming
from simulators.flash.drive import DriveParameters
from simulators.flash.drive_file import load_drive
from simulators.generation_shape import DriveCosts
from tiers.csd.geometry import FlashGeometry
from tiers.csd.timing import DriveTiming
from tiers.errors import InvalidOptionError

_MOST_NBYTES = 96 * 2**20
"""Of keys and values to try with: as few layers as exceed what a processor's cache holds."""
_ROUNDS = 5
_FIRST_TOKENS = 16
_NOTHING_S = 1e-9


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
    by default ``instattention``, for the pages that were touched. ``attend_s`` is that of the mean layer, where some
    are read in full; products between two commands keep the cores, the caches and the threads as busy as a model does,
    and what they are slower for the drives counts as the drives'. Tokens go there one by one, whatever ``write_back``
    says. Takes a second or two, with such layers twice that. Raises as ``open_drives``, and InvalidOptionError for an
    ``x_cache``.
    """
    if config.x_cache:
        raise InvalidOptionError(
            f"--x-cache {config.x_cache:g}: no prediction knows what inputs in drives cost; leave it out, or try a run"
        )
    drive = drive or load_drive("instattention")
    drive_task(config, prospect, prospect.sizes.num_layers, workload)  # refuses dense layers that there are not
    layers = drive_layers(prospect)
    in_full = sum(layer in config.dense_layers for layer in layers) / max(1, len(layers))
    speeds = _tried(prospect, config, workload, drive, is_dense=False)
    if in_full:
        dense = _tried(prospect, config, workload, drive, is_dense=True)
        speeds = DriveSpeeds(
            _blended(speeds.emulated, dense.emulated, in_full), _blended(speeds.modelled, dense.modelled, in_full)
        )
    # Nobody models the command that reads back: all of it crosses the links.
    nbytes = workload.batch * prospect.sizes.kv_nbytes_per_token_layer
    back_s = nbytes / (config.csd * drive.link_bytes_per_s)
    return replace(speeds, modelled=replace(speeds.modelled, read_s=back_s))


def drive_layers(prospect: Prospect) -> list[int]:
    """Numbers of the layers whose keys and values go to drives: those without a window."""
    return [number for number, window in enumerate(layer_windows(prospect.config)) if window is None]


def _blended(costs: DriveCosts, dense: DriveCosts, in_full: float) -> DriveCosts:
    return replace(costs, attend_s=(1 - in_full) * costs.attend_s + in_full * dense.attend_s)


def _tried(
    prospect: Prospect, config: RunConfig, workload: Workload, drive: DriveParameters, *, is_dense: bool
) -> DriveSpeeds:
    """With the engine of ``config`` in all of the few layers that are tried, or with all of them read in full."""
    attention = prospect.architecture.attention
    tokens = max(1, mean_context(workload))
    layer_nbytes = workload.batch * tokens * prospect.sizes.kv_nbytes_per_token_layer
    layers = max(1, min(prospect.sizes.num_layers, _MOST_NBYTES // max(1, layer_nbytes)))
    config = replace(config, dense_layers=tuple(range(layers)) if is_dense else ())
    task, geometry = drive_task(config, prospect, layers, workload)
    array = start_drives(config, geometry, timing_of(drive))
    try:
        drives, between = KVDrives(array, task, InDrives()), _layer_products(prospect, config)
        return _Probe(drives, layers, tokens, workload.batch, between).speeds(attention.query // attention.kv.key_dim)
    finally:
        array.close()


def _layer_products(prospect: Prospect, config: RunConfig) -> LayerProducts:
    """What a processor does between two commands; on a GPU nothing of it."""
    first = next(group for group in prospect.source.groups if group.kind == "layer")
    return LayerProducts(() if is_gpu(config.device) else matrices_of(first), getattr(torch, prospect.sizes.dtype))


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
    between: LayerProducts

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
        # What a first command takes more than the next ones is not asked. It is not taken back: erasing takes time.
        few = min(_FIRST_TOKENS, self.tokens)
        other = drives.new_sequences(self.batch)
        for row in other:
            drives.write(0, row, 0, keys[:few], values[:few])
        drives.ask(0, other, [few] * self.batch, query, token).wait()
        written, back = self._timed(write), self._timed(read)
        attended = list(self._attended(rows, query, token))
        emulated, modelled = (
            DriveCosts(
                write_s=written[which] / (self.layers * self.tokens),
                read_s=back[which] / self.tokens,
                attend_s=statistics.median(times[which] for times in attended) / self.layers,
            )
            for which in (0, 1)
        )
        return DriveSpeeds(emulated, modelled)

    def _attended(self, rows: Sequence[int], query: Tensor, token: NewTokens) -> Iterator[tuple[float, float]]:
        """Of all layers in turn, what products with commands between them take more than products alone."""

        def multiply() -> None:
            for _ in range(self.layers):
                self.between()

        def attend(step: int) -> None:
            starts = [self.tokens + step] * self.batch
            for layer in range(self.layers):
                self.between()
                self.drives.ask(layer, rows, starts, query, token).wait()

        multiply()  # memory that nobody has read yet is slower
        for step in range(_ROUNDS):
            alone_s, _ = self._timed(multiply)
            seconds, modelled_s = self._timed(partial(attend, step))
            yield max(_NOTHING_S, seconds - alone_s), modelled_s

    def _timed(self, call: Callable[[], None]) -> tuple[float, float]:
        """Seconds here, and seconds that real drives would have taken."""
        start_s, modelled_s = time.perf_counter(), self.drives.modelled_s
        call()
        return time.perf_counter() - start_s, self.drives.modelled_s - modelled_s
