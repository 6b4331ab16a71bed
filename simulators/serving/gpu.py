"""The GPU's share of serving: the roofline of the weights, and of attention in prefill."""

from simulators.serving.base import Host, Workload


def weights_s(workload: Workload, host: Host, tokens: int) -> float:
    """A pass of ``tokens`` tokens through all weights, without attention; GPUs work one after the other."""
    profile, shape = host.profile, workload.shape
    flops = 2.0 * shape.active_weights * tokens
    compute_s = flops / (profile.flops_per_s(shape.dtype) * profile.flops_share)
    return max(compute_s, shape.nbytes_read(tokens) / (profile.memory_bytes_per_s * profile.memory_share))


def prefill_s(workload: Workload, host: Host, sequences: int, tokens: int) -> float:
    """``sequences`` prompts of ``tokens`` tokens with their attention."""
    profile, shape = host.profile, workload.shape
    flops = sequences * shape.attention_flops(tokens, 0)
    attention_s = flops / (profile.flops_per_s(shape.dtype) * profile.flops_share)
    return weights_s(workload, host, sequences * tokens) + attention_s


def kv_read_s(host: Host, nbytes: float) -> float:
    """Keys and values that lie on the GPU."""
    return nbytes / (host.profile.memory_bytes_per_s * host.profile.memory_share)


def weights_nbytes(workload: Workload) -> float:
    """Of all experts and the head."""
    return workload.shape.weights(workload.shape.experts) * workload.shape.item_nbytes
