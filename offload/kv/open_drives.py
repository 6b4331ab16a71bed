"""Emulated computational drives for one model: as large as its workload needs, with pages that suit its heads."""

import os
from contextlib import ExitStack, suppress
from pathlib import Path

from offload.config import RunConfig
from offload.kv.drives import KVDrives
from offload.kv.shape import AttentionShape
from offload.plan import Workload
from tiers.csd.commands import Config, Precision
from tiers.csd.drive import ComputationalDrive
from tiers.csd.drive_array import DriveArray
from tiers.csd.engines.registry import EXACT, SPARSE, EngineConfig
from tiers.csd.geometry import FlashGeometry
from tiers.nvme_tier import make_directory
from tiers.slots import ALIGNMENT

_TASK = 0
_MOST_PAGE_NBYTES = 64 * 2**10
_SPARE = 1.25
"""Flash for so many times what the workload writes: erase blocks that are not full yet, and sequences that follow."""

_ITEMSIZE = {"float16": 2, "float32": 4}
_ENGINES = {"auto": EXACT, "in-storage": EXACT, "in-storage-sparse": SPARSE}
_DIRECTORY = Path(".offload")


def open_drives(
    config: RunConfig, attention: AttentionShape, num_layers: int, dtype: str, workload: Workload
) -> KVDrives:
    """Start ``config.csd`` drives, with nameless images in ``config.nvme_dir`` or in ``.offload`` here.

    ``dtype`` is that of the model ("F32"); pages of half-precision models are float16. Raises InvalidOptionError,
    DiskFullError, DeviceGoneError.
    """
    precision: Precision = "float32" if dtype == "F32" else "float16"
    task = Config(
        task=_TASK,
        num_layers=num_layers,
        kv_heads=attention.kv.heads,
        heads_per_kv=attention.query // attention.key,
        head_dim=attention.kv.key_dim,
        dtype=precision,
        link_dtype=precision,
        max_tokens=workload.context_tokens,
        key_copies=1,
        engine=EngineConfig(_ENGINES[config.attention]),
    )
    heads = -(-attention.kv.heads // config.csd)
    tokens = workload.batch * workload.context_tokens
    geometry = _geometry(task, (1 + task.key_copies) * num_layers * heads * tokens)
    directory = config.nvme_dir or _DIRECTORY
    was_made = make_directory(directory)
    try:
        with ExitStack() as stack:
            drives = [
                stack.enter_context(ComputationalDrive(directory / f"{os.getpid()}.{name}", geometry, name=name))
                for name in (f"csd{i}" for i in range(config.csd))
            ]
            opened = KVDrives(DriveArray(drives), task)
            stack.pop_all()
        return opened
    finally:
        if was_made:  # and not needed any more, since images have no name
            with suppress(OSError):
                directory.rmdir()


def _geometry(task: Config, head_tokens: int) -> FlashGeometry:
    """The default drive with as many erase blocks as ``head_tokens`` keys or values of one head need."""
    token_nbytes = task.head_dim * _ITEMSIZE[task.dtype]
    sizes = range(ALIGNMENT, _MOST_PAGE_NBYTES + 1, ALIGNMENT)
    page_nbytes = next((size for size in sizes if size % token_nbytes == 0), ALIGNMENT)
    default = FlashGeometry(page_nbytes=page_nbytes)
    row_nbytes = default.num_dies * default.pages_per_block * page_nbytes
    rows = int(_SPARE * head_tokens * token_nbytes) // row_nbytes + 2
    return FlashGeometry(page_nbytes=page_nbytes, blocks_per_die=rows)
