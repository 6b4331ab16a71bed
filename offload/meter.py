"""What a run cost, read off the counters of its runtime: bytes, waits, hits, and the time that physics would allow."""

import time
from dataclasses import dataclass

from offload.runtime import Runtime
from simulators.profile import HardwareProfile


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters at one moment. Differences of two of them describe what lies between."""

    time_s: float
    stall_s: float
    link_nbytes: dict[str, int]
    link_busy_s: dict[str, float]
    kv_blocks_used: int
    experts_used: int

    @classmethod
    def of(cls, runtime: Runtime) -> "Reading":
        """The counters now."""
        links = {name: (link.nbytes, link.busy_s) for name, link in runtime.engine.links.items()}
        if runtime.drives:
            links |= runtime.drives.links()
        experts = runtime.experts.manager.stats.accesses if runtime.experts else 0
        return cls(
            time.perf_counter(),
            runtime.engine.stall_s,
            {name: nbytes for name, (nbytes, _) in links.items()},
            {name: busy_s for name, (_, busy_s) in links.items()},
            runtime.kv.manager.stats.accesses,
            experts,
        )


@dataclass(frozen=True, slots=True)
class Stretch:
    """What happened between two readings, in ``passes`` forward passes of the model."""

    start: Reading
    end: Reading
    passes: int

    @property
    def seconds(self) -> float:
        return self.end.time_s - self.start.time_s

    @property
    def stall_s(self) -> float:
        """Time in which the model waited for blocks."""
        return self.end.stall_s - self.start.stall_s

    @property
    def experts_used(self) -> int:
        """Visits to experts, one for each in each layer of a pass."""
        return self.end.experts_used - self.start.experts_used

    def nbytes(self, link: str) -> int:
        return self.end.link_nbytes.get(link, 0) - self.start.link_nbytes.get(link, 0)

    def busy_s(self, link: str) -> float:
        return self.end.link_busy_s.get(link, 0.0) - self.start.link_busy_s.get(link, 0.0)

    def roofline_s(self, profile: HardwareProfile) -> float:
        """The shortest time for this work: computing it, or moving its missed bytes, whichever takes longer.

        A link counts at the rate of the profile or at the one that it showed here, whichever is higher.
        """
        bound = self.seconds - self.stall_s
        for link in profile.links:
            nbytes = self.nbytes(link)
            if nbytes and link.endswith("->device"):
                shown = nbytes / max(self.busy_s(link), 1e-9)
                bound = max(bound, nbytes / max(profile.bytes_per_s(link), shown))
        return bound

    def hit_ratio(self, runtime: Runtime) -> float:
        """Share of the bytes used, weights, experts and KV blocks, that lay on the device and were not brought."""
        weights = sum(group.nbytes for group in runtime.source.groups if group.kind in ("layer", "head", "rest"))
        blocks = self.end.kv_blocks_used - self.start.kv_blocks_used
        used = self.passes * weights + blocks * runtime.kv.layout.block_nbytes
        used += self.experts_used * runtime.plan.expert_slot_nbytes
        brought = sum(self.nbytes(link) for link in runtime.engine.links if link.endswith("->device"))
        return max(0.0, 1.0 - brought / used) if used else 1.0
