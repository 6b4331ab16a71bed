"""FlexGen with keys and values on a drive: through the page cache, by GPUDirect Storage, or with SparQ's selection."""

from dataclasses import dataclass

from simulators.serving.base import Host, ServingTime, Workload
from simulators.serving.gpu import prefill_s, weights_nbytes, weights_s
from simulators.serving.software import SoftwareCosts
from tiers.errors import BudgetError

_CONTEXTS = 16
_HALF_NBYTES = 2


@dataclass(frozen=True, slots=True)
class FlexGen:
    """``kv_share`` of the bytes of the cache is read in a step; ``is_direct`` goes around the page cache."""

    software: SoftwareCosts
    drives: int = 1
    is_direct: bool = False
    kv_share: float = 1.0

    def time(self, workload: Workload, host: Host) -> ServingTime:
        """See ServingSystem. Decode reads the whole cache layer by layer, in the same order at every step."""
        _check_prefill(workload, host)
        gpu_s = weights_s(workload, host, workload.batch)
        other_s = gpu_s + workload.shape.layers * self.software.layer_overhead_s
        steps = workload.new_tokens / _CONTEXTS
        kv_s = steps * sum(self._kv_s(workload, host, tokens) for tokens in workload.contexts(_CONTEXTS))
        written_s = workload.kv_nbytes(workload.prompt_tokens) / self._written_bytes_per_s(host)
        first_s = max(prefill_s(workload, host, workload.batch, workload.prompt_tokens), written_s)
        return ServingTime(workload, first_s, kv_s + workload.new_tokens * other_s, kv_s)

    def _kv_s(self, workload: Workload, host: Host, tokens: int) -> float:
        nbytes = workload.kv_nbytes(tokens)
        moved = nbytes * self.kv_share
        copied_s = moved / self._copied_bytes_per_s(host)
        if self.is_direct:
            return copied_s + moved / (self.software.direct_bytes_per_s * self.drives)
        # Read in a circle, a file larger than an LRU cache always misses. The weights' own file is in it too.
        is_cached = nbytes <= host.host_nbytes - weights_nbytes(workload)
        return copied_s + (0.0 if is_cached else moved / (self.software.file_bytes_per_s * self.drives))

    def _copied_bytes_per_s(self, host: Host) -> float:
        return self.software.flexgen_bytes_per_s * (1 + self.software.further_gpu_share * (host.devices - 1))

    def _written_bytes_per_s(self, host: Host) -> float:
        return min(self._copied_bytes_per_s(host), host.profile.bytes_per_s("device->nvme"))


def _check_prefill(workload: Workload, host: Host) -> None:
    """Prefill holds weights, scores of a layer before and after their softmax, activations and keys and values."""
    shape, tokens = workload.shape, workload.batch * workload.prompt_tokens
    scores = 2 * workload.batch * shape.heads * workload.prompt_tokens**2 * _HALF_NBYTES
    feed_forward = max(shape.intermediate, 3 * shape.hidden)
    activations = tokens * (4 * shape.hidden + feed_forward) * _HALF_NBYTES
    kv = tokens * shape.kv_nbytes_per_token // shape.layers
    wanted = int(weights_nbytes(workload) / host.devices + scores + activations + kv)
    if wanted > host.device_nbytes:
        raise BudgetError(
            f"a prefill of {workload.batch} x {workload.prompt_tokens} tokens takes {wanted:,} bytes of GPU memory; "
            f"there are {host.device_nbytes:,}; take a smaller batch",
            wanted_bytes=wanted,
            available_bytes=host.device_nbytes,
        )
