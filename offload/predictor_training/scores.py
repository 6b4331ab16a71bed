"""How well a predictor of paths foresees routing that it was not trained on."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.predictor_training.lessons import Pieces
from prefetch.routing_path import RoutingPath
from simulators.expert_trace import ExpertTrace
from simulators.trace_statistics import chosen_experts, recall

_TIMED_STEPS = 50


def score(
    predictor: RoutingPath,
    trace: ExpertTrace,
    pieces: Pieces,
    popularity: NDArray[np.float64],
) -> dict[str, Any]:
    """Recall at as many experts as a token visits, overall and by layer, beside that of simpler guesses.

    ``pieces`` are places in ``trace`` of tokens that follow each other; ``popularity`` [layers, experts] is how often
    the training data visit each expert. The other guesses: at random (``chance``), the most popular experts, and those
    of the token before (of tokens that have one). ``step_ms`` is the time that a decode step of one token takes.
    """
    chosen = chosen_experts(trace)
    guess = np.concatenate([predictor.begin(trace.tokens[None, piece].astype(np.int64), 0) for piece in pieces])
    truth = chosen[np.concatenate(pieces)]
    last = chosen[np.concatenate([piece[:-1] for piece in pieces])]
    this = chosen[np.concatenate([piece[1:] for piece in pieces])]
    rows = [
        {
            "layer": layer,
            "recall": recall(guess[:, row], truth[:, row]),
            "popularity_recall": recall(np.broadcast_to(popularity[row], truth[:, row].shape), truth[:, row]),
            "repetition_recall": recall(last[:, row].astype(np.float32), this[:, row]),
        }
        for row, layer in enumerate(trace.layers.tolist())
    ]
    figures = [name for name in rows[0] if name != "layer"]
    return {
        "held_out_tokens": len(truth),
        "chance": trace.experts.shape[2] / trace.num_experts,
        **{name: float(np.mean([row[name] for row in rows])) for name in figures},
        "step_ms": _step_ms(predictor, trace.tokens[pieces[0]]),
        "per_layer": rows,
    }


def _step_ms(predictor: RoutingPath, tokens: NDArray[np.int32]) -> float:
    """The median, with a full context."""
    prompt = np.resize(tokens, (1, predictor.file.window)).astype(np.int64)
    predictor.begin(prompt, 0)
    times = []
    for step in range(_TIMED_STEPS):
        start = time.perf_counter()
        predictor.begin(prompt[:, step : step + 1], predictor.file.window + step)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))
