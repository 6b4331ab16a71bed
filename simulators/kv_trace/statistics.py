"""A trace of requests in figures."""

from dataclasses import dataclass

from simulators.belady import ideal_hit_ratio
from simulators.kv_trace.base import KVTrace


@dataclass(frozen=True, slots=True)
class KVTraceStatistics:
    """An access is one reference of a request to a block. Ratios are of accesses, of 0 to 1; 0 of an empty trace."""

    requests: int
    accesses: int
    unique_blocks: int
    ideal_hit_ratio: float
    """What a cache of ``slots`` blocks finds that evicts what is needed last (Belady); of any size where it is None."""
    slots: int | None
    format: str
    block_tokens: int
    input_tokens: int
    output_tokens: int
    duration_s: float


def kv_trace_statistics(trace: KVTrace, slots: int | None = None) -> KVTraceStatistics:
    """Reads the trace to its end; its block ids are held in memory."""
    accesses: list[int] = []
    requests = input_tokens = output_tokens = 0
    arrival = 0.0
    for request in trace.requests:
        requests += 1
        arrival = request.arrival_s
        input_tokens += request.input_tokens
        output_tokens += request.output_tokens
        accesses += request.blocks
    unique = len(set(accesses))
    ratio = 0.0
    if accesses:
        ratio = 1 - unique / len(accesses) if slots is None else ideal_hit_ratio(accesses, slots)
    return KVTraceStatistics(
        requests=requests,
        accesses=len(accesses),
        unique_blocks=unique,
        ideal_hit_ratio=ratio,
        slots=slots,
        format=trace.format,
        block_tokens=trace.block_tokens,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        duration_s=arrival,
    )
