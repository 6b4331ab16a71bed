"""Whether a GPU has the memory that a plan wants of it, before anything is loaded."""

import psutil

from offload.device import device_uuid, free_bytes, has_own_memory, total_bytes
from offload.nvml import GpuUse, read_nvml
from offload.sizes import format_size
from tiers.errors import BudgetError


def require_room(device: str, wanted_bytes: int) -> None:
    """Raises BudgetError where a GPU with a memory of its own has less than ``wanted_bytes`` to give."""
    if not has_own_memory(device):
        return
    free = free_bytes(device)
    if free < wanted_bytes:
        raise shortage(device, wanted_bytes, free, total_bytes(device), read_nvml(device_uuid(device)))


def shortage(device: str, wanted: int, free: int, total: int, use: GpuUse | str) -> BudgetError:
    """What, how much, who has it, and what would help, in one line."""
    if isinstance(use, str):
        others, cure = f"who holds the rest is not known (NVML is {use})", "lower --device-memory"
    elif use.is_slice:
        others, cure = "it is a slice of a GPU (MIG) and has no more", "lower --device-memory"
    else:
        others, cure = use.others_in_words(), "lower --device-memory"
        # In a container the driver may tell of processes by numbers that mean nothing here, ourselves among them.
        if others and all(psutil.pid_exists(pid) for pid, _ in use.others):
            cure += " or end them"
    return BudgetError(
        f"--device {device}: {format_size(wanted)} wanted, {format_size(free)} of {format_size(total)} free"
        + (f"; {others}" if others else "")
        + f"; {cure}",
        wanted_bytes=wanted,
        available_bytes=free,
    )
