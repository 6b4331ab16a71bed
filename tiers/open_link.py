"""Which kind of link moves blocks from one tier to another."""

import threading
from typing import TYPE_CHECKING

from tiers.copier import as_tensor, open_copier
from tiers.device_link import DeviceLink
from tiers.errors import OffloadError
from tiers.file_link import FileLink
from tiers.gds import find_gds
from tiers.link import Link, MemoryLink
from tiers.pinned_tier import PinnedTier
from tiers.shared_link import SharedFileLink
from tiers.shared_tier import SharedTier
from tiers.staged_link import StagedFileLink
from tiers.tier import SupportsDeviceTensor, SupportsDirectIO, SupportsMemory, SupportsView, Tier
from tiers.timeline import Timeline

if TYPE_CHECKING:
    import torch

    from tiers.io_queue import IOQueue
    from tiers.transfer import TransferConfig


def open_link(
    source: Tier,
    target: Tier,
    config: "TransferConfig",
    finished: threading.Condition,
    timeline: Timeline | None,
) -> Link:
    """A running link, chosen by what the two tiers can do. Raises OffloadError if there is no way between them."""
    name = f"{source.name}->{target.name}"
    device = _device_of(source, target)
    shared = next((tier for tier in (source, target) if isinstance(tier, SharedTier)), None)
    if device is None and isinstance(source, SupportsView) and isinstance(target, SupportsView):
        if shared is not None:
            raise OffloadError(f"no way to move blocks over {name}: device and host are one memory, nothing is copied")
        return MemoryLink(name, finished, timeline, config.memory_chunk_nbytes)
    if device is not None and isinstance(source, SupportsMemory) and isinstance(target, SupportsMemory):
        copier = open_copier(device)
        return DeviceLink(name, finished, timeline, copier, config.device_chunk_nbytes, config.device_depth)
    is_write = not isinstance(source, SupportsDirectIO)
    files, memory = (target, source) if is_write else (source, target)
    if not isinstance(files, SupportsDirectIO):
        raise OffloadError(f"no way to move blocks over {name}")
    # The queue last, here and below: what fails before it has nothing to give back.
    if device is None and isinstance(memory, SupportsView):
        chunk, depth = config.chunk_nbytes, config.guess_depth
        if shared is not None:
            copier = open_copier(shared.device)
            queue = files.open_queue(config.queue_depth)
            return SharedFileLink(name, finished, timeline, queue, chunk, depth, copier, is_write=is_write)
        queue = files.open_queue(config.queue_depth)
        return FileLink(name, finished, timeline, queue, chunk, depth, is_write=is_write)
    if device is None or not isinstance(memory, SupportsMemory):
        raise OffloadError(f"no way to move blocks over {name}")
    ring = PinnedTier("ring", 2 * config.queue_depth, config.chunk_nbytes, device=device)
    copier = open_copier(device)
    kind, queue, way = _device_reader(files, device, config) if not is_write else _stager(files, config)
    link = kind(name, finished, timeline, queue, config.guess_depth, copier, ring, is_write=is_write)
    link.way = way
    return link


_Reader = tuple[type[StagedFileLink], "IOQueue", str]
"""Which link, the queue that it reads with, and what is to be said of that way."""


def _stager(files: SupportsDirectIO, config: "TransferConfig", way: str = "") -> _Reader:
    return StagedFileLink, files.open_queue(config.queue_depth), way


def _device_reader(files: SupportsDirectIO, device: "torch.device", config: "TransferConfig") -> _Reader:
    how = config.files_to_device
    if how == "staged" or (how == "auto" and device.type != "cuda"):
        return _stager(files, config)
    gds = find_gds()
    if how == "auto" and not gds.is_real:
        return _stager(files, config, f"through buffers in host memory: {gds.note}")
    if not gds.works:
        raise OffloadError(f"files_to_device='kvikio': {gds.note}; use 'auto'")
    from tiers.kvikio_link import KvikioLink
    from tiers.kvikio_queue import KvikioQueue

    return KvikioLink, KvikioQueue(config.queue_depth, config.kvikio), "" if gds.is_real else gds.note


def _device_of(*tiers: Tier) -> "torch.device | None":
    for tier in tiers:
        if isinstance(tier, SupportsDeviceTensor) and isinstance(tier, SupportsMemory):
            return as_tensor(tier.flat()).device
    return None
