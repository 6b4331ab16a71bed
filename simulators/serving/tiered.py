"""Keys and values on device, host and drives, nearest first: what no runtime that moves them to the GPU can beat."""

from collections.abc import Mapping
from dataclasses import dataclass

from simulators.serving.base import Host, ServingTime, Workload
from simulators.serving.gpu import kv_read_s, prefill_s, weights_s
from simulators.serving.moved import Moved
from tiers.errors import BudgetError

_CONTEXTS = 16


@dataclass(frozen=True, slots=True)
class Tiered:
    """``tiers`` are bytes for keys and values on ``device``, ``host`` and ``nvme``; weights are on the device besides.

    A step takes as long as the busiest of GPU, links and the GPU's own port: everything overlaps, software costs
    nothing. ``drives`` plain ones read side by side.
    """

    tiers: Mapping[str, int]
    drives: int = 1

    def time(self, workload: Workload, host: Host) -> ServingTime:
        """See ServingSystem; BudgetError where keys and values fit nowhere."""
        wanted, given = workload.kv_nbytes(workload.tokens), sum(self.tiers.values())
        if wanted > given:
            raise BudgetError(
                f"keys and values of {workload.batch} x {workload.tokens} tokens take {wanted:,} bytes; the tiers have "
                f"{given:,}; give them more",
                wanted_bytes=wanted,
                available_bytes=given,
            )
        steps = workload.new_tokens / _CONTEXTS
        gpu_s = weights_s(workload, host, workload.batch)
        times = [self._step_s(workload, host, tokens) for tokens in workload.contexts(_CONTEXTS)]
        stored = self._placed(workload.kv_nbytes(workload.prompt_tokens))
        written_s = self._links_s(host, stored, ("device->host", "device->nvme"))
        first_s = max(prefill_s(workload, host, workload.batch, workload.prompt_tokens), written_s)
        return ServingTime(workload, first_s, steps * sum(times), steps * sum(max(0.0, t - gpu_s) for t in times))

    def moved(self, time: ServingTime, host: Host) -> Moved:
        """Of all steps together; every token is written once, to the tier that has room at the end."""
        workload = time.workload
        steps = workload.new_tokens / _CONTEXTS
        compute_s = prefill_s(workload, host, workload.batch, workload.prompt_tokens)
        compute_s += workload.new_tokens * weights_s(workload, host, workload.batch)
        read = dict.fromkeys(("device", "host", "nvme"), 0.0)
        for tokens in workload.contexts(_CONTEXTS):
            for name, nbytes in self._placed(workload.kv_nbytes(tokens)).items():
                read[name] += steps * nbytes
        written = self._placed(workload.kv_nbytes(workload.tokens))
        links = {f"{name}->device": read[name] for name in ("host", "nvme")}
        links |= {f"device->{name}": float(written[name]) for name in ("host", "nvme")}
        busy_s = sum(
            links[name] / (host.profile.bytes_per_s(name) * self.drives) for name in ("nvme->device", "device->nvme")
        )
        return Moved(
            compute_s + kv_read_s(host, read["device"]),
            {name: nbytes for name, nbytes in links.items() if nbytes},
            drives=self.drives if self.tiers.get("nvme") else 0,
            drive_busy_s=busy_s,
        )

    def _step_s(self, workload: Workload, host: Host, tokens: int) -> float:
        placed = self._placed(workload.kv_nbytes(tokens))
        gpu_s = weights_s(workload, host, workload.batch) + kv_read_s(host, placed["device"])
        return max(gpu_s, self._links_s(host, placed, ("host->device", "nvme->device")))

    def _placed(self, nbytes: int) -> dict[str, int]:
        placed = {}
        for name in ("device", "host", "nvme"):
            placed[name] = min(nbytes, self.tiers.get(name, 0))
            nbytes -= placed[name]
        return placed

    def _links_s(self, host: Host, placed: Mapping[str, int], links: tuple[str, str]) -> float:
        """All that is not on the device passes its port, which is as fast as the link of the host."""
        near, far = (host.profile.bytes_per_s(link) for link in links)
        return max((placed["host"] + placed["nvme"]) / near, placed["nvme"] / (far * self.drives))
