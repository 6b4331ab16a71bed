"""What software adds to hardware: the constants of this model that no data sheet gives."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SoftwareCosts:
    """Calibrated on published figures of InstAttention (HPCA 2025), named beside each constant; all others follow.

    Above all FlexGen's baseline is limited by its own path from file to GPU, at a fifth of what its drive delivers: 1.3
    GB/s of keys and values while they fit in the page cache, 0.9 GB/s when they do not.
    """

    layer_overhead_s: float = 0.020
    """Of a FlexGen-based runtime, per layer and decode step, outside attention and arithmetic. On: 98.9 % of
    FlexGen's decode time goes into keys and values at batch 64, 92.4 % with SparQ. The shares in storage follow, where
    values are weighed while nothing is read."""
    submit_s: float = 6.6e-6
    """The host, per command: one for each layer, sequence and drive. On: 20 drives are 8.99 times as
    fast as one, with SparF 7.29 times (a compromise)."""
    flexgen_bytes_per_s: float = 1.3e9
    """FlexGen's copies of keys and values, one process per GPU, the file being in the page cache. On: InstAttention at
    batch 256 is 5.34 (11.1 / 2.08) times as fast as FlexGen at its best."""
    further_gpu_share: float = 0.36
    """What a further GPU's process adds to that, of the first's: they share the host. On: OPT-30B on two GPUs, with
    InstAttention 4.09 and with SparF 9.39 times as fast (a compromise)."""
    file_bytes_per_s: float = 2.95e9
    """What a mapped file adds where the page cache misses, per drive. On: 6.85 times at batch 64."""
    direct_bytes_per_s: float = 6.6e9
    """What GPUDirect Storage adds instead: a Gen4 drive at 1 MiB, measured alike with and without it."""
    sparq_share: float = 1 / 8
    """Of the bytes of keys and values that FlexGen-SparQ moves: the paper's setting."""
    zero_bytes_per_s: float = 15.4e9
    """Weights and cache from pinned memory in ZeRO-Inference. On: InstAttention at its best is 1.046 times as fast."""
    swap_bytes_per_s: float = 0.335e9
    """The same once they do not fit in memory any more. On: 32.6 times slower from batch 16 to batch 32."""
    recompute_steps: float = 3.55
    """Decode steps of a group of sequences between two recomputations of its cache. On: SparF is 1.713 times as fast at
    batch 256. Less than one recomputation a step, which no A6000 could deliver at the published rate."""
