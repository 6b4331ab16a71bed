"""The numbers of one machine, measured or published, from which speed is predicted and time is simulated."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from simulators.machine_costs import HostProfile, PowerProfile, PriceProfile, SharedProfile
from simulators.runtime_profile import RuntimeProfile
from tiers.kvikio_settings import KvikioSettings

NEAR_TO_FAR = ("device", "host", "nvme", "csd", "remote")
"""Tiers by distance from the arithmetic. A link towards a nearer tier reads, a link towards a farther one writes."""

DRIVE_LINKS = ("nvme->device", "device->nvme")
"""The links that every profile has."""

LINKS = (*DRIVE_LINKS, "host->device", "device->host")
"""Those of a device that has a memory of its own."""


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """One pair of tiers: how fast the farther one is read and written, and how long the link's first byte takes.

    ``by_size`` refines the link's own direction: rows ``(transfer size in bytes, bytes per second)`` by rising size.
    """

    read_bytes_per_s: float
    write_bytes_per_s: float
    latency_s: float
    by_size: tuple[tuple[int, float], ...] | None = None

    def bytes_per_s(self, nbytes: int | None = None, *, is_read: bool) -> float:
        """The rate in one direction, for transfers of ``nbytes`` where that was measured.

        One between two of the sizes takes as long as lies between what those take; a smaller or larger one moves at the
        rate of the smallest or largest.
        """
        if nbytes is None or not self.by_size:
            return self.read_bytes_per_s if is_read else self.write_bytes_per_s
        place = bisect_left(self.by_size, nbytes, key=_size_of)
        if place == 0:
            return self.by_size[0][1]
        if place == len(self.by_size):
            return self.by_size[-1][1]
        (below, rate_below), (above, rate_above) = self.by_size[place - 1 : place + 1]
        part = (nbytes - below) / (above - below)
        return nbytes / ((1 - part) * below / rate_below + part * above / rate_above)


@dataclass(frozen=True, slots=True)
class DriveProfile:
    """What a drive does with small requests: how long one alone takes, and how many it ends in a second at most."""

    latency_s: float
    read_iops: float
    write_iops: float


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """One machine. ``device`` is a torch device name, ``flops`` maps dtype names to FLOP/s of a large matrix product.

    ``memory_bytes_per_s`` is the rate at which the device reads weights in a matrix-vector product. ``source`` says
    where the numbers come from. A field added later needs a default: then files written before it still load.
    """

    name: str
    source: str
    device: str
    memory_bytes_per_s: float
    flops: Mapping[str, float]
    links: Mapping[str, LinkProfile]
    kernels: Mapping[str, int] | None = None
    """By the type of weights, tokens up to which the kernel made for few is the fastest; None if not measured."""
    kvikio: KvikioSettings | None = None
    """With which kvikio reads fastest into the memory of the device; None if not measured."""
    drive: DriveProfile | None = None
    memory_nbytes: int | None = None
    """Of the device's memory, all that it has; None where nobody says."""
    memory_share: float = 1.0
    """Of ``memory_bytes_per_s``, what can be reached: 1 where that was measured, less where it is a data sheet's."""
    flops_share: float = 1.0
    runtime: RuntimeProfile | None = None
    """What generating takes beside bytes; None if not measured."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where single numbers come from."""
    unified_memory: bool = False
    """Whether device and host are one memory: a drive reaches it without a bounce buffer, nothing is copied between the
    two, and computing shares its bandwidth with what is read."""
    gds: bool | None = None
    """Whether the drive reaches the memory of the device itself (GPUDirect Storage); None where nobody knows."""
    host: HostProfile | None = None
    """None where nobody has measured it; so the next ones."""
    shared: Mapping[str, SharedProfile] = field(default_factory=dict)
    """By name, what several links compete for, besides host memory."""
    power: PowerProfile | None = None
    price: PriceProfile | None = None

    def flops_per_s(self, dtype: str) -> float:
        """FLOP/s in ``dtype``; of a dtype that was not measured, the slowest one that was."""
        return self.flops.get(dtype, min(self.flops.values()))

    def bytes_per_s(self, link: str, nbytes: int | None = None) -> float:
        """The rate in the direction in which ``link`` points, for transfers of ``nbytes`` where that was measured."""
        return self.links[link].bytes_per_s(nbytes, is_read=_is_read(link))


def _link(read: float, write: float, latency_s: float) -> LinkProfile:
    return LinkProfile(read_bytes_per_s=read, write_bytes_per_s=write, latency_s=latency_s)


DEFAULT = HardwareProfile(
    name="default",
    source="assumed, not measured: a modest desktop; 'offload doctor' measures this machine",
    device="cpu",
    memory_bytes_per_s=8e9,
    flops={"float32": 4e10, "bfloat16": 2e10, "float16": 2e10},
    links={
        "nvme->device": _link(5e8, 3e8, 2e-4),
        "device->nvme": _link(5e8, 3e8, 2e-4),
        "host->device": _link(4e9, 4e9, 2e-5),
        "device->host": _link(4e9, 4e9, 2e-5),
    },
)

DEFAULT_CUDA = HardwareProfile(
    name="default GPU",
    source="assumed, not measured: a modest GPU; 'offload doctor' measures this machine",
    device="cuda:0",
    memory_bytes_per_s=3e11,
    flops={"float32": 1e13, "bfloat16": 3e13, "float16": 3e13},
    links={
        **DEFAULT.links,
        "host->device": _link(1.2e10, 1.2e10, 2e-5),
        "device->host": _link(1.2e10, 1.2e10, 2e-5),
    },
)


def _size_of(row: tuple[int, float]) -> int:
    return row[0]


def _is_read(link: str) -> bool:
    source, _, destination = link.partition("->")
    return NEAR_TO_FAR.index(source) > NEAR_TO_FAR.index(destination)
