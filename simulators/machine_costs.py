"""What a machine has besides its device, links and drive: a host that bytes pass through, power, and a price."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tiers.errors import InvalidOptionError


@dataclass(frozen=True, slots=True)
class HostProfile:
    """Memory and cores beside the device."""

    memory_bytes_per_s: float
    """Reads and writes together; of a unified memory the same as the device's."""
    copy_bytes_per_s: float
    """What one core copies from one place in memory to another."""
    copy_cores: float = 4.0
    """Cores that copy side by side where a drive is read through a bounce buffer."""
    staging_nbytes: float = 4194304.0
    """Of the page-locked buffer through which a driver takes pageable memory to a device."""
    request_cpu_s: float = 1.25e-6
    """Processor time of one request to the drive through the kernel."""
    direct_cpu_share: float = 0.16
    """Of ``request_cpu_s``, what is left of it where the drive reaches the device itself."""


@dataclass(frozen=True, slots=True)
class SharedProfile:
    """Something that several links pass through, such as the lanes of a PCIe root."""

    bytes_per_s: float
    links: Mapping[str, float] = field(default_factory=dict)
    """By link, how many bytes pass here for each byte that it moves."""


@dataclass(frozen=True, slots=True)
class PowerProfile:
    """Watts, from the wall as far as the numbers go; idle ones flow all the time, active ones while something works."""

    device_idle_w: float
    device_active_w: float
    host_idle_w: float
    """Board, processor at rest, memory, fans."""
    core_active_w: float
    """More, for each core that works."""
    dram_j_per_byte: float
    drive_idle_w: float
    drive_active_w: float


@dataclass(frozen=True, slots=True)
class PriceProfile:
    """US dollars: what is bought once, over the years for which it is used, and electricity."""

    device_usd: float
    host_usd: float
    """Without the memory and the drive that hold blocks."""
    dram_usd_per_gib: float
    nvme_usd_per_gib: float
    usd_per_kwh: float
    years: float
    utilisation: float = 1.0
    """Share of those years in which it works."""

    def __post_init__(self) -> None:
        for name in ("years", "utilisation"):
            if getattr(self, name) <= 0:
                raise InvalidOptionError(f"price.{name} is {getattr(self, name)}; it must be above 0")
