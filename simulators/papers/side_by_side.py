"""Recorded or made-up requests as a server runs them: several at a time."""

from dataclasses import replace

import numpy as np

from simulators.expert_trace import ExpertTrace


def side_by_side(trace: ExpertTrace, batch: int, *, one_by_one: bool = False) -> ExpertTrace:
    """The same tokens with ``batch`` requests decoded together, a pass for each step of them.

    With ``one_by_one`` each token is a pass of its own, in the same order: what a cache sees that serves them in turns.
    Who has no more tokens has left; the next requests begin when all of a batch have.
    """
    _, index, counts = np.unique(trace.requests, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    by_request = np.argsort(index, kind="stable")
    step = np.empty(len(index), np.int64)
    step[by_request] = np.arange(len(index)) - np.repeat(starts, counts)
    group = index // batch
    order = np.lexsort((index, step, group))
    longest = int(counts.max(initial=1))
    passes = np.unique((group * longest + step)[order], return_inverse=True)[1]
    if one_by_one:
        passes = np.arange(len(order))
    return replace(
        trace,
        tokens=trace.tokens[order],
        requests=trace.requests[order],
        passes=passes.astype(np.int32),
        experts=trace.experts[order],
        weights=trace.weights[order],
        gate_inputs=trace.gate_inputs[order],
    )
