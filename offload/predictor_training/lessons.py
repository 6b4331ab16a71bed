"""Traces as training material: pieces of token sequences with what each token visited."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simulators.expert_trace import ExpertTrace
from tiers.errors import TraceError

PIECE_TOKENS = 256
"""A network learns from pieces of a request that are no longer than this."""

Pieces = Sequence[NDArray[np.int64]]
"""Places in a trace of tokens that follow each other in one request."""


def join_traces(traces: Sequence[ExpertTrace]) -> ExpertTrace:
    """One trace of all requests, without gate inputs. Raises TraceError where they are not of one model."""
    first = traces[0]
    requests, passes = [], []
    next_request = next_pass = 0
    for trace in traces:
        check_subject(trace, first)
        requests.append(trace.requests + next_request)
        passes.append(trace.passes + next_pass)
        next_request += int(trace.requests.max(initial=-1)) + 1
        next_pass += int(trace.passes.max(initial=-1)) + 1
    tokens = np.concatenate([trace.tokens for trace in traces])
    return replace(
        first,
        tokens=tokens,
        requests=np.concatenate(requests),
        passes=np.concatenate(passes),
        experts=np.concatenate([trace.experts for trace in traces]),
        weights=np.concatenate([trace.weights for trace in traces]),
        gate_inputs=np.empty((len(tokens), len(first.layers), 0), np.float16),
    )


def check_subject(trace: ExpertTrace, other: ExpertTrace) -> None:
    """Raises TraceError unless both are of one model."""
    if _subject(trace) != _subject(other):
        raise TraceError("the traces are of different models; give those of one")


def sequence_pieces(trace: ExpertTrace) -> Pieces:
    """The tokens of each request in their order, cut to the length of a piece."""
    order = np.argsort(trace.requests, kind="stable")
    starts = np.flatnonzero(np.diff(trace.requests[order])) + 1
    requests = np.split(order, starts) if len(order) else []
    return [r[start : start + PIECE_TOKENS] for r in requests for start in range(0, len(r), PIECE_TOKENS)]


def split_pieces(pieces: Pieces) -> tuple[Pieces, Pieces]:
    """Those to learn from, and the last eighth, to be held out. Raises TraceError where there is nothing to split."""
    if len(pieces) == 1 and len(pieces[0]) > 1:
        pieces = np.array_split(pieces[0], 2)
    if len(pieces) < 2:
        raise TraceError("the trace is too short to train from and hold something out; record a longer one")
    held_out = -(-len(pieces) // 8)
    return pieces[:-held_out], pieces[-held_out:]


def targets(trace: ExpertTrace, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """What tokens visited, as 0 or 1, and the share of the gate's weight that an expert got.

    Both [*places, layers, experts]. A token that visited nothing in a layer has no shares there.
    """
    experts = torch.from_numpy(trace.experts[places].astype(np.int64))
    weights = torch.from_numpy(trace.weights[places].astype(np.float32)).abs()
    empty = torch.zeros(*experts.shape[:-1], trace.num_experts + 1)  # masked choices go to the last, which is cut off
    visited = empty.scatter(-1, experts, 1.0)[..., :-1]
    given = empty.scatter(-1, experts, weights)[..., :-1]
    return visited, given / given.sum(-1, keepdim=True).clamp(min=1e-9)


def _subject(trace: ExpertTrace) -> tuple[object, ...]:
    return trace.model, trace.num_experts, trace.layers.tolist(), trace.experts.shape[2]
