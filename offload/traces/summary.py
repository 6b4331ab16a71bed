"""A trace in figures: what ``offload trace info`` prints."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from prefetch.routing_path import RoutingPath
from simulators.belady import belady_hit_ratio
from simulators.expert_batching import compare_batching
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import passes_of
from simulators.kv_trace.formats import open_kv_trace
from simulators.kv_trace.statistics import kv_trace_statistics
from simulators.trace_statistics import layer_statistics
from tiers.errors import TraceError


def summarise_trace(trace: ExpertTrace, slots: int | None = None) -> dict[str, Any]:
    """The keys of the command line's contract and, below ``per_layer``, a row a layer, whose means are in ``mean``.

    An access is one visit of a pass to an expert of a layer. ``slots`` is how many experts the cache holds of which the
    ideal hit ratio is told, half of all of them by default. Raises TraceError for an empty trace.
    """
    if not len(trace.tokens):
        raise TraceError("the trace has no tokens; record it again")
    passes = passes_of(trace)
    keys = [key for one in passes for visit in one.visits for key in visit]
    slots = slots or max(1, trace.num_experts * len(trace.layers) // 2)
    rows = [asdict(row) for row in layer_statistics(trace)]
    figures = [name for name in rows[0] if name != "layer"]
    top_k = trace.experts.shape[2]
    return {
        "requests": len(np.unique(trace.requests)),
        "accesses": len(keys),
        "unique_blocks": len(set(keys)),
        "ideal_hit_ratio": belady_hit_ratio(passes, slots),
        "slots": slots,
        "tokens": len(trace.tokens),
        "passes": len(passes),
        "layers": len(trace.layers),
        "experts_per_layer": trace.num_experts,
        "experts_per_token": top_k,
        "chance": top_k / trace.num_experts,
        "model": trace.model,
        "mean": {name: _mean([row[name] for row in rows]) for name in figures},
        "per_layer": rows,
    }


def summarise_batching(trace: ExpertTrace, batch: int, predictor: Path | None) -> dict[str, Any]:
    """What ``batch`` requests side by side would touch, by who is put together with whom.

    ``predictor`` is the file of a trained one. Raises TraceError, and ModelError for a predictor of another model.
    """
    foresee = RoutingPath.load(predictor, trace.model).begin if predictor else None
    rows = compare_batching(trace, batch, foresee)
    return {"batch": batch, "rows": [asdict(row) for row in rows]}


def summarise_kv_trace(path: Path, slots: int | None = None) -> dict[str, Any]:
    """The keys of the command line's contract, and lengths; see KVTraceStatistics. Raises TraceError."""
    return asdict(kv_trace_statistics(open_kv_trace(path), slots))


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan
