"""vLLM without offloading: sequences whose cache does not fit on the GPU are recomputed when it is their turn."""

from dataclasses import dataclass

from simulators.serving.base import Host, ServingTime, Workload
from simulators.serving.gpu import kv_read_s, prefill_s, weights_nbytes, weights_s
from simulators.serving.software import SoftwareCosts
from tiers.errors import BudgetError

_CONTEXTS = 16
_USED = 0.9
"""Of the GPU's memory, vLLM's default."""
_ACTIVATIONS_NBYTES = 2**30


@dataclass(frozen=True, slots=True)
class Recompute:
    """Sequences take turns on the GPU in groups that fit; a turn lasts ``recompute_steps`` steps."""

    software: SoftwareCosts

    def time(self, workload: Workload, host: Host) -> ServingTime:
        """See ServingSystem; BudgetError where not even one sequence fits."""
        room = int(host.devices * (host.device_nbytes * _USED - _ACTIVATIONS_NBYTES) - weights_nbytes(workload))
        wanted = workload.tokens * workload.shape.kv_nbytes_per_token
        if room < wanted:
            raise BudgetError(
                f"one sequence of {workload.tokens} tokens takes {wanted:,} bytes of cache; the GPU has {room:,} left",
                wanted_bytes=wanted,
                available_bytes=room,
            )
        first_s = prefill_s(workload, host, workload.batch, workload.prompt_tokens)
        steps = workload.new_tokens / _CONTEXTS
        times = [self._step_s(workload, host, room, tokens) for tokens in workload.contexts(_CONTEXTS)]
        total_s, kv_s = (steps * sum(part) for part in zip(*times, strict=True))
        return ServingTime(workload, first_s, total_s, kv_s)

    def _step_s(self, workload: Workload, host: Host, room: int, tokens: int) -> tuple[float, float]:
        """Seconds of a step of the whole batch, and those for keys and values."""
        sequence_nbytes = tokens * workload.shape.kv_nbytes_per_token
        together = min(workload.batch, room // sequence_nbytes)
        turns = workload.batch / together
        kv_s = kv_read_s(host, together * sequence_nbytes)
        if together < workload.batch:
            kv_s += prefill_s(workload, host, together, tokens) / self.software.recompute_steps
        return turns * (weights_s(workload, host, together) + kv_s), turns * kv_s
