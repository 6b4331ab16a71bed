"""DeepSpeed's ZeRO-Inference: weights and cache in pinned host memory, streamed to the GPU for every step."""

from dataclasses import dataclass

from simulators.serving.base import Host, ServingTime, Workload
from simulators.serving.gpu import prefill_s, weights_nbytes, weights_s
from simulators.serving.software import SoftwareCosts

_CONTEXTS = 4


@dataclass(frozen=True, slots=True)
class ZeroInference:
    """Falls back on swapping where pinned memory runs out."""

    software: SoftwareCosts

    def spills(self, workload: Workload, host: Host) -> bool:
        """Whether host memory is too small: the pinned allocator takes a power of two for each layer's keys."""
        layer_nbytes = workload.kv_nbytes(workload.tokens) // (2 * workload.shape.layers)
        pinned = 2 * workload.shape.layers * (1 << (layer_nbytes - 1).bit_length())
        return pinned + weights_nbytes(workload) > host.host_nbytes

    def time(self, workload: Workload, host: Host) -> ServingTime:
        """See ServingSystem."""
        software = self.software
        rate = software.swap_bytes_per_s if self.spills(workload, host) else software.zero_bytes_per_s
        weights_moved_s = weights_nbytes(workload) / rate
        kv_s = workload.new_tokens / _CONTEXTS * sum(workload.kv_nbytes(t) / rate for t in workload.contexts(_CONTEXTS))
        other_s = workload.new_tokens * (weights_moved_s + weights_s(workload, host, workload.batch))
        first_s = prefill_s(workload, host, workload.batch, workload.prompt_tokens) + weights_moved_s
        return ServingTime(workload, first_s, kv_s + other_s, kv_s)
