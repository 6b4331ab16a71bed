"""Host memory that a CUDA device reads and writes by itself: page-locked, at its exact size."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from weakref import finalize

import numpy as np

from tiers.locked_memory import why_not_locked
from tiers.memory_tier import MemoryTier
from tiers.slots import SlotLayout, slots_of_sizes

if TYPE_CHECKING:
    import torch

_SYS = Path("/sys")


class PinnedTier(MemoryTier):
    """A MemoryTier whose pages are locked for ``device``, beside which they lie where the machine has several nodes.

    The mapping is registered with CUDA rather than asked of torch's allocator, which would round it up to a power of
    two. Where that fails (no CUDA, ``ulimit -l``) it is ordinary memory that is copied more slowly: ``is_pinned`` and
    ``note`` say so. Every page is touched now. Raises TierError if the machine does not have the memory.
    """

    def __init__(
        self,
        name: str,
        num_slots: int,
        block_nbytes: int,
        layout: SlotLayout | None = None,
        *,
        device: "torch.device | str" = "cuda",
    ) -> None:
        super().__init__(name, num_slots, block_nbytes, layout)
        self._unpin: finalize[..., object] | None
        self._unpin, self.note = pin(self, self.buffer[: self.nbytes], device)
        """Why it is not pinned, or where it lies; one line."""

    @classmethod
    def of_sizes(cls, name: str, sizes: Sequence[int], *, device: "torch.device | str" = "cuda") -> Self:
        """A tier whose slots have sizes of their own, in whole pages; ``block_nbytes`` is the largest."""
        return cls(name, len(sizes), max(sizes, default=0), slots_of_sizes(sizes), device=device)

    @property
    def is_pinned(self) -> bool:
        """Whether the device copies from and to it without help of the processor."""
        return self._unpin is not None and self._unpin.alive

    def close(self) -> None:
        if self._unpin is not None:
            self._unpin()
        super().close()


def pin(owner: object, memory: memoryview, device: "torch.device | str") -> "tuple[finalize[..., object] | None, str]":
    """Lock pages for a CUDA device: what lets them go again, at the latest when ``owner`` does, and a note.

    Without CUDA, or where the system does not allow it, nothing is locked, and the note says why.
    """
    import torch

    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return None, f"not pinned: {device} is no CUDA device of this machine"
    if not memory.nbytes:
        return None, "nothing to pin"
    node = _node_of(torch.device(device))
    address = int(np.frombuffer(memory, np.uint8).ctypes.data)
    with torch.cuda.device(device), _running_on(node):
        code = int(torch.cuda.cudart().cudaHostRegister(address, memory.nbytes, 0))
    if code != 0:
        with suppress(RuntimeError):  # torch finds the error once more at its next launch: let that be this one
            torch.zeros(1, device=device)
        return None, f"not pinned: CUDA error {code} for {memory.nbytes:,} bytes; {why_not_locked(memory.nbytes)}"
    # Memory that is unmapped while it is registered leaves CUDA with pages that are no longer ours, and whatever is
    # mapped there next would be read and written in vain: a tier that is forgotten is unregistered too.
    unpin = finalize(owner, torch.cuda.cudart().cudaHostUnregister, address)
    unpin.atexit = False
    return unpin, "pinned" if node is None else f"pinned, node {node}"


def _node_of(device: "torch.device") -> int | None:
    """The NUMA node to which a device is connected; None where that is unknown or there is only one."""
    import torch

    facts: Any = torch.cuda.get_device_properties(device)
    bus = f"{facts.pci_domain_id:04x}:{facts.pci_bus_id:02x}:{facts.pci_device_id:02x}.0"
    try:
        node = int((_SYS / "bus/pci/devices" / bus / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


@contextmanager
def _running_on(node: int | None) -> Iterator[None]:
    """Keep this thread on the processors of a node: the pages that it is the first to touch lie there."""
    processors = os.sched_getaffinity(0)
    if node is not None:
        with suppress(OSError, ValueError):  # a container that shows no nodes, or may not use that one
            near = _processors((_SYS / f"devices/system/node/node{node}/cpulist").read_text()) & processors
            os.sched_setaffinity(0, near)
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def _processors(text: str) -> set[int]:
    """The kernel's spelling of a set: "0-3,8"."""
    ends = [part.split("-") for part in text.strip().split(",") if part]
    return {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}
