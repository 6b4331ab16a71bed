"""An expert trace as a cache sees it: for every pass and layer, which experts have to be there together."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefetch.expert_predictor import Routing
from simulators.expert_trace import ExpertTrace
from tiers.block import ExpertKey

PRECISION = "stored"


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: ``visits[i]`` are the experts that the i-th layer with experts needs, by rising index."""

    tokens: slice
    """Which tokens of the trace."""
    position: int
    """Of the first new token in its request."""
    num_requests: int
    is_decode: bool
    """One token for each request, none of which starts here."""
    visits: tuple[tuple[ExpertKey, ...], ...]


def keys_of(trace: ExpertTrace) -> list[list[ExpertKey]]:
    """By index of the layer in the model, the keys of its experts; empty for a layer without experts."""
    keys: list[list[ExpertKey]] = [[] for _ in range(int(trace.layers.max(initial=-1)) + 1)]
    for layer in trace.layers.tolist():
        keys[layer] = [ExpertKey(layer, expert, PRECISION) for expert in range(trace.num_experts)]
    return keys


def passes_of(trace: ExpertTrace) -> list[Pass]:
    """All passes, in order."""
    keys = keys_of(trace)
    layers = [keys[layer] for layer in trace.layers.tolist()]
    seen: dict[int, int] = {}
    passes = []
    for tokens in trace.iter_passes():
        requests, counts = np.unique(trace.requests[tokens], return_counts=True)
        position = seen.get(int(trace.requests[tokens.start]), 0)
        is_decode = bool((counts == 1).all()) and all(request in seen for request in requests.tolist())
        visits = []
        for i, of_layer in enumerate(layers):
            chosen = np.unique(trace.experts[tokens, i])
            visits.append(tuple(of_layer[expert] for expert in chosen.tolist() if expert < trace.num_experts))
        passes.append(Pass(tokens, position, len(requests), is_decode, tuple(visits)))
        for request, count in zip(requests.tolist(), counts.tolist(), strict=True):
            seen[request] = seen.get(request, 0) + count
    return passes


def tokens_of(trace: ExpertTrace, one: Pass) -> NDArray[np.int64]:
    """[sequences, new tokens] ids of a pass; one row where its requests have different numbers of tokens."""
    tokens, requests = trace.tokens[one.tokens].astype(np.int64), trace.requests[one.tokens]
    _, counts = np.unique(requests, return_counts=True)
    if (counts == counts[0]).all():
        return tokens[np.argsort(requests, kind="stable")].reshape(len(counts), -1)
    return tokens[None]


def routings_of(trace: ExpertTrace, one: Pass) -> Iterator[Routing]:
    """What the gates of a pass were given and chose, layer by layer."""
    return (routing_at(trace, one, place) for place in range(len(trace.layers)))


def routing_at(trace: ExpertTrace, one: Pass, place: int) -> Routing:
    """The same of the layer that is ``place``-th among those with experts."""
    return Routing(
        int(trace.layers[place]),
        trace.gate_inputs[one.tokens, place].astype(np.float32),
        trace.experts[one.tokens, place].astype(np.int64),
        trace.weights[one.tokens, place].astype(np.float32),
    )
