"""Emulated computational drives for one model: as large as its workload needs, with pages that suit its heads."""

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from offload.config import RunConfig
from offload.device import has_own_memory, torch_device
from offload.kv.delayed_writes import InHost
from offload.kv.drive_rows import InDrives
from offload.kv.drives import DriveUsage, KVDrives, NewestHolder
from offload.kv.host_room import HostRoom
from offload.kv.input_rows import InputCache
from offload.kv.input_shape import input_shape
from offload.kv.projection import watch_inputs
from offload.plan import Plan, Workload
from offload.prospect import Prospect
from tiers.csd.commands import Config, Precision
from tiers.csd.drive import ComputationalDrive
from tiers.csd.drive_array import DriveArray
from tiers.csd.engines.registry import EXACT, SPARSE, options_for
from tiers.csd.geometry import FlashGeometry
from tiers.csd.sizing import drive_for
from tiers.csd.timing import DriveTiming
from tiers.errors import InvalidOptionError
from tiers.nvme_tier import make_directory
from tiers.slots import ALIGNMENT

MakeTiming = Callable[[FlashGeometry], DriveTiming]
"""A model of time for a drive of that geometry."""

_TASK, _INPUT_TASK = 0, 1
_MOST_PAGE_NBYTES = 64 * 2**10
_SPARE = 1.25
"""Flash for so many times the context of the workload: a conversation may go on."""

_SPARF = "sparf"
_ENGINES = {"auto": EXACT, "in-storage": EXACT, "in-storage-sparse": SPARSE, "in-storage-sparf": _SPARF}
_TOKENS_PER_RANGE = 16
"""Of a group's keys one range says enough for so many tokens; of wider groups several are kept."""
_DIRECTORY = Path(".offload")


def open_drives(
    config: RunConfig,
    prospect: Prospect,
    plan: Plan,
    workload: Workload,
    make_timing: MakeTiming | None,
    model: nn.Module,
) -> KVDrives:
    """Start ``config.csd`` drives for ``model``, with nameless images in ``config.nvme_dir`` or in ``.offload`` here.

    Pages of half-precision models are float16. ``make_timing`` gives what says how long a real drive would take for
    what they do. Raises InvalidOptionError, DiskFullError, DeviceGoneError.
    """
    task, geometry = drive_task(config, prospect, prospect.sizes.num_layers, workload)
    array, usage = start_drives(config, geometry, make_timing), DriveUsage()
    try:
        inputs = _input_cache(array, usage, config, task, prospect, model) if config.x_cache else None
        return KVDrives(array, task, _newest_holder(config.write_back, plan.newest_nbytes, inputs), usage)
    except BaseException:
        array.close()
        raise


def drive_task(
    config: RunConfig, prospect: Prospect, num_layers: int, workload: Workload
) -> tuple[Config, FlashGeometry]:
    """What drives are told of ``num_layers`` layers of a model, and how large they have to be."""
    attention = prospect.architecture.attention
    precision: Precision = "float32" if prospect.dtype == "F32" else "float16"
    engine = _ENGINES[config.attention]
    task = Config(
        task=_TASK,
        num_layers=num_layers,
        kv_heads=attention.kv.heads,
        heads_per_kv=attention.query // attention.key,
        head_dim=attention.kv.key_dim,
        dtype=precision,
        link_dtype=precision,
        max_tokens=workload.context_tokens,
        key_copies=2 if engine == _SPARF else 1,  # the others do not look at channels
        engine=engine,
        engine_options=options_for(engine, config.compression),
        dense_layers=config.dense_layers,
    )
    page = FlashGeometry(page_nbytes=_page_nbytes(task))
    if engine == SPARSE:
        ranges = max(1, task.shape(page).tokens_per_group // _TOKENS_PER_RANGE)
        task = replace(task, engine_options={**task.engine_options, "ranges": ranges})
    of_one = replace(task, kv_heads=-(-task.kv_heads // config.csd))
    tokens = round(_SPARE * workload.context_tokens)
    geometry = drive_for(of_one, page, sequences=workload.batch, tokens=tokens)
    if config.x_cache:  # inputs take less, but in erase blocks of their own
        geometry = replace(geometry, blocks_per_die=geometry.blocks_per_die + 1)
    return task, geometry


def start_drives(config: RunConfig, geometry: FlashGeometry, make_timing: MakeTiming | None) -> DriveArray:
    """The processes of ``config.csd`` drives, which nobody has configured yet. Raises as ``open_drives``."""
    timing = None if make_timing is None else make_timing(geometry)
    device = torch_device(config.device) if has_own_memory(config.device) else None
    directory = config.nvme_dir or _DIRECTORY
    was_made = make_directory(directory)
    try:
        with ExitStack() as stack:
            drives = [
                stack.enter_context(
                    ComputationalDrive(
                        directory / f"{os.getpid()}.{name}", geometry, name=name, timing=timing, device=device
                    )
                )
                for name in (f"csd{i}" for i in range(config.csd))
            ]
            stack.pop_all()
        return DriveArray(drives)
    finally:
        if was_made:  # and not needed any more, since images have no name
            with suppress(OSError):
                directory.rmdir()


def _newest_holder(group_tokens: int, host_nbytes: int, inputs: InputCache | None) -> NewestHolder:
    return InHost(group_tokens, HostRoom(host_nbytes), inputs) if group_tokens else InDrives()


def _input_cache(
    drives: DriveArray, usage: DriveUsage, config: RunConfig, task: Config, prospect: Prospect, model: nn.Module
) -> InputCache:
    shape = input_shape(prospect.config, prospect.architecture.attention)
    if config.csd > shape.heads:
        raise InvalidOptionError(
            f"--x-cache stores the inputs of this model as {shape.heads} heads, which cannot be split over --csd "
            f"{config.csd} drives; use --csd {shape.heads} at most, or run without --x-cache"
        )
    inputs = replace(
        task,
        task=_INPUT_TASK,
        kv_heads=shape.heads,
        heads_per_kv=1,
        key_copies=1,
        engine=EXACT,
        engine_options={},
        dense_layers=(),
    )
    held = KVDrives(drives, inputs, InDrives(), usage)
    return InputCache(held, config.x_cache, config.write_back, watch_inputs(model, shape.width), shape.heads)


def _page_nbytes(task: Config) -> int:
    """The smallest page that holds whole tokens; 4 KiB where none does, and the drive says what is wrong."""
    token_nbytes = task.head_dim * np.dtype(task.dtype).itemsize
    sizes = range(ALIGNMENT, _MOST_PAGE_NBYTES + 1, ALIGNMENT)
    return next((size for size in sizes if size % token_nbytes == 0), ALIGNMENT)
