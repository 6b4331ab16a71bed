"""How bytes get from a drive to a device and back, and out of which host memory: what the host has to do for it."""

from dataclasses import dataclass
from enum import Enum

from simulators.machine_costs import HostProfile
from simulators.profile import NEAR_TO_FAR, HardwareProfile
from tiers.errors import InvalidOptionError

HOST_MEMORY = "host memory"
"""The name of what all paths through the host share."""


class Storage(Enum):
    """Between drive and device."""

    GDS = "gds"
    """GPU-direct storage: from one to the other without the host's memory."""
    BOUNCE = "bounce"
    """Through a buffer in host memory."""


class HostMemory(Enum):
    """What the host keeps blocks in."""

    PINNED = "pinned"
    """Page-locked: the device reads it itself."""
    PAGEABLE = "pageable"
    """The driver copies it through a small page-locked buffer, one piece after the other."""


@dataclass(frozen=True, slots=True)
class HostWork:
    """What one link asks of the host. Rates are of bytes that the link moves."""

    memory_share: float = 0.0
    """Bytes that host memory reads or writes for each."""
    most_bytes_per_s: float = float("inf")
    """What copying cores and the device's own port let pass."""
    staged_bytes_per_s: float | None = None
    """One core copies all of it at this rate, before the link moves it; None where nothing is staged."""
    request_cpu_s: float = 0.0
    """Processor time of one request to the drive."""

    def cpu_s(self, nbytes: int, num_requests: int) -> float:
        """Processor time of a transfer."""
        copying_s = nbytes / self.staged_bytes_per_s if self.staged_bytes_per_s else 0.0
        return copying_s + num_requests * self.request_cpu_s


@dataclass(frozen=True, slots=True)
class HostPaths:
    """The paths of one machine. None: as the runtime would go there, direct where the profile says that it can.

    Where device and host are one memory a drive reaches it without a bounce and nothing is staged: all paths are one.
    Raises InvalidOptionError where the profile lacks a number that was asked for, or direct storage.
    """

    profile: HardwareProfile
    storage: Storage | None = None
    host_memory: HostMemory | None = None

    def __post_init__(self) -> None:
        if self.storage is Storage.GDS and self.profile.gds is False and not self.profile.unified_memory:
            raise InvalidOptionError(
                f"storage: gds: no drive reaches the device of the profile '{self.profile.name}' itself; "
                "leave storage out, or write bounce"
            )
        if self.profile.host is not None:
            return
        asked = {"storage": self.storage, "host_memory": self.host_memory}
        for key, value in asked.items():
            if value not in (None, Storage.GDS, HostMemory.PINNED):
                raise InvalidOptionError(
                    f"{key}: {value.value} needs 'host' in the profile '{self.profile.name}'; "
                    f"add its numbers there, or leave {key} out"
                )

    def work(self, link: str) -> HostWork:
        """What a link asks of the host."""
        host, ends = self.profile.host, set(link.split("->"))
        if "nvme" in ends:
            return self._from_drive(link, host)
        if host is None:
            return HostWork()
        if self.host_memory is not HostMemory.PAGEABLE:
            return HostWork(memory_share=1.0)
        return HostWork(memory_share=3.0, staged_bytes_per_s=host.copy_bytes_per_s)

    def _from_drive(self, link: str, host: HostProfile | None) -> HostWork:
        if self.profile.unified_memory:
            return HostWork(1.0, request_cpu_s=host.request_cpu_s if host else 0.0)
        if "device" not in link:
            return HostWork(1.0, request_cpu_s=host.request_cpu_s) if host else HostWork()
        if self.storage is Storage.GDS or (self.storage is None and self.profile.gds):
            # Less of the processor, and no faster than drive and link are.
            request_s = host.request_cpu_s * host.direct_cpu_share if host else 0.0
            return HostWork(0.0, self._port_bytes_per_s(link), request_cpu_s=request_s)
        if host is None:
            return HostWork()
        passes = 3.0 if self.host_memory is HostMemory.PAGEABLE else 2.0
        copying = host.copy_cores * host.copy_bytes_per_s
        return HostWork(passes, min(copying, self._port_bytes_per_s(link)), request_cpu_s=host.request_cpu_s)

    def _port_bytes_per_s(self, link: str) -> float:
        """Between device and host, in the direction of ``link``: the device's own lanes."""
        source, target = link.split("->")
        is_read = NEAR_TO_FAR.index(source) > NEAR_TO_FAR.index(target)
        name = "host->device" if is_read else "device->host"
        if name not in self.profile.links:
            raise InvalidOptionError(
                f"the profile '{self.profile.name}' has no link {name}; it has {', '.join(self.profile.links)}"
            )
        return self.profile.bytes_per_s(name)
