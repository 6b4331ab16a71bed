"""What a trace of experts says of a model: skew, locality, and how well its routing can be foreseen."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulators.expert_trace import ExpertTrace

Chosen = NDArray[np.bool_]
"""[tokens, layers, experts]: what each token visits."""


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """One layer. Figures that a trace does not allow, as in its first layer or of one token, are not-a-numbers.

    A recall is the share of the visited experts that are among as many guessed ones.
    """

    layer: int
    max_to_mean: float
    """Load of the busiest expert over the mean."""
    entropy: float
    """Of the load, as a share of that of an even one: 1 is even, 0 is one expert for all."""
    overlap: float
    """Share of a token's experts that the token before it visited too."""
    overlap_by_popularity: float
    """The same, were tokens independent of each other and only the experts' popularity as it is."""
    popularity_recall: float
    """Of the most popular experts of the first half of the trace, in its second half."""
    co_occurrence_recall: float
    """Of the experts that in the first half came most often with those visited in the layer before."""
    next_gate_recall: float
    """Of this layer's gate on what the gate of the layer before was given (Fate, arXiv 2502.12224)."""


def layer_statistics(trace: ExpertTrace) -> list[LayerStatistics]:
    """Of every layer that has experts."""
    chosen = chosen_experts(trace)
    half = len(chosen) // 2
    load = chosen.sum(axis=0)
    before, now = neighbours(trace)
    found = []
    for row, layer in enumerate(trace.layers.tolist()):
        visited = chosen[:, row]
        share = load[row] / max(1, load[row].sum())
        frequency = load[row] / max(1, len(chosen))
        found.append(
            LayerStatistics(
                layer=layer,
                max_to_mean=float(load[row].max() / load[row].mean()) if load[row].any() else np.nan,
                entropy=_entropy(share),
                overlap=_ratio((visited[before] & visited[now]).sum(), visited[now].sum()),
                overlap_by_popularity=_ratio((frequency**2).sum(), frequency.sum()),
                popularity_recall=_popularity(visited, half) if half else np.nan,
                co_occurrence_recall=_co_occurrence(chosen, row, half) if row and half else np.nan,
                next_gate_recall=_next_gate(trace, chosen, row) if row else np.nan,
            )
        )
    return found


def chosen_experts(trace: ExpertTrace) -> Chosen:
    """What each token visits; choices that were masked are left out."""
    tokens, layers, _ = trace.experts.shape
    chosen = np.zeros((tokens, layers, trace.num_experts + 1), np.bool_)
    np.put_along_axis(chosen, trace.experts.astype(np.int64), True, axis=2)
    return chosen[:, :, :-1]


def neighbours(trace: ExpertTrace) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of tokens that have one before them in the same request: that one's, and their own."""
    order = np.argsort(trace.requests, kind="stable")
    is_same = trace.requests[order[1:]] == trace.requests[order[:-1]]
    return order[:-1][is_same], order[1:][is_same]


def recall(scores: NDArray[np.floating], visited: Chosen) -> float:
    """Share of the ``visited`` experts [tokens, experts] that are among the as many of the highest scores."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    ranked = np.take_along_axis(visited, order, axis=-1)
    numbers = visited.sum(axis=-1, keepdims=True)
    return _ratio((ranked & (np.arange(visited.shape[-1]) < numbers)).sum(), numbers.sum())


def _entropy(share: NDArray[np.floating]) -> float:
    used = share[share > 0]
    return float(-(used * np.log(used)).sum() / np.log(len(share)))


def _popularity(visited: Chosen, half: int) -> float:
    later = visited[half:]
    return recall(np.broadcast_to(visited[:half].mean(axis=0), later.shape), later)


def _co_occurrence(chosen: Chosen, row: int, half: int) -> float:
    before, now = chosen[:, row - 1].astype(np.float32), chosen[:, row]
    together = before[:half].T @ now[:half]
    likely = together / np.maximum(1, before[:half].sum(axis=0)[:, None])
    return recall(before[half:] @ likely, now[half:])


def _next_gate(trace: ExpertTrace, chosen: Chosen, row: int) -> float:
    if not (trace.gate_inputs.shape[-1] and trace.gates.shape[-1]):
        return np.nan
    return recall(trace.gate_inputs[:, row - 1].astype(np.float32) @ trace.gates[row].T, chosen[:, row])


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan
