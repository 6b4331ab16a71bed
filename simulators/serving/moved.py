"""What a system moves for a whole workload, and the joules that it takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from simulators.machine_costs import PowerProfile
from simulators.serving.base import ServingTime


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes over all links and drives, and how long things were busy with it."""

    compute_s: float
    """Of the GPU."""
    links: Mapping[str, float] = field(default_factory=dict)
    """Bytes, by names such as ``device->csd``."""
    host_nbytes: float = 0.0
    """What the host's memory takes and gives for links of which it is no end."""
    flash_read_nbytes: float = 0.0
    """Whole pages, which never leave a computing drive."""
    flash_written_nbytes: float = 0.0
    drives: int = 0
    drive_busy_s: float = 0.0
    """Of each drive."""
    engine_busy_s: float = 0.0
    """Of the arithmetic inside each drive."""


ENGINE_W = 13.5
"""Of a drive's arithmetic while it attends: the middle of the 11 to 16 W that HILOS reports of a SmartSSD's kernels."""


def serving_energy_j(
    power: PowerProfile, time: ServingTime, moved: Moved, engine_w: float = ENGINE_W
) -> dict[str, float]:
    """Joules by part. Idle watts flow all the time; the active ones while a part computes, reads or writes.

    Every byte on a link of the host's memory crosses that memory once, and what other links take through it as often as
    ``Moved.host_nbytes`` counts it.
    """
    elapsed_s = time.prefill_s + time.decode_s
    by_host = sum(nbytes for link, nbytes in moved.links.items() if "host" in link)
    return {
        "device": power.device_idle_w * elapsed_s + (power.device_active_w - power.device_idle_w) * moved.compute_s,
        "host": power.host_idle_w * elapsed_s,
        "dram": power.dram_j_per_byte * (by_host + moved.host_nbytes),
        "drive": moved.drives
        * (power.drive_idle_w * elapsed_s + (power.drive_active_w - power.drive_idle_w) * moved.drive_busy_s),
        "engine": moved.drives * engine_w * moved.engine_busy_s,
    }
