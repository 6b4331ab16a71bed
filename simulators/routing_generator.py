"""Made-up routing with the properties of a real one, for tests and for benchmarks without a model."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulators.expert_trace import ExpertTrace
from tiers.errors import InvalidOptionError, WorkloadWarning

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RoutingShape:
    """How much of what makes caching and prediction work is in the routing; each of 0 (none of it) to 1.

    A hidden state wanders through the layers and from token to token, and random gates choose by it. ``locality`` is
    the correlation of the states of neighbouring tokens, ``continuity`` that of neighbouring layers, ``topic`` the
    share of the state that a whole request has in common, and ``skew`` how much more popular some experts are.
    """

    skew: float = 0.3
    locality: float = 0.5
    continuity: float = 0.9
    topic: float = 0.2

    def __post_init__(self) -> None:
        for name in ("skew", "locality", "continuity", "topic"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise InvalidOptionError(f"the {name} of a routing is {value}; it must be from 0 to 1")


def generate_routing(
    requests: Sequence[tuple[int, int]],
    num_layers: int,
    num_experts: int,
    top_k: int,
    *,
    shape: RoutingShape | None = None,
    hidden: int = 32,
    seed: int = 0,
) -> ExpertTrace:
    """The routing of ``requests`` of (prompt tokens, new tokens), one after the other.

    The prompt is one pass, every new token another. Same arguments, same trace. Warns where the routing is uniform: on
    that all policies are alike and no predictor is right more often than by chance. Raises InvalidOptionError.
    """
    if not 0 < top_k <= num_experts or num_layers < 1:
        raise InvalidOptionError(f"{top_k} of {num_experts} experts in {num_layers} layers cannot be chosen")
    shape = shape or RoutingShape()
    if shape.skew == shape.locality == shape.topic == 0.0:
        message = "this routing is uniform: no policy can be told from another by it; give it a skew or a locality"
        warnings.warn(message, WorkloadWarning, stacklevel=2)
    random = np.random.default_rng(seed)
    # The last dimension of the state is constant, so that what the gates have there makes experts popular.
    gates = random.standard_normal((num_layers, num_experts, hidden), np.float32)
    gates[..., -1] *= 3 * shape.skew
    states = np.concatenate([_wander(random, prompt + new, num_layers, hidden, shape) for prompt, new in requests])
    states[..., -1] = hidden**0.5
    states = states.astype(np.float16).astype(np.float32)
    logits = np.einsum("tlh,leh->tle", states, gates) / np.float32(hidden**0.5)
    experts = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k]
    chosen = np.exp(np.take_along_axis(logits, experts, axis=-1) - logits.max(axis=-1, keepdims=True))
    lengths = [prompt + new for prompt, new in requests]
    return ExpertTrace(
        model=f"generated, seed {seed}",
        num_experts=num_experts,
        layers=np.arange(num_layers, dtype=np.int32),
        tokens=random.integers(0, 50_000, sum(lengths), dtype=np.int32),
        requests=np.repeat(np.arange(len(requests), dtype=np.int32), lengths),
        passes=_number_passes(requests),
        experts=experts.astype(np.int16),
        weights=(chosen / chosen.sum(axis=-1, keepdims=True)).astype(np.float16),
        gate_inputs=states.astype(np.float16),
        gates=gates,
    )


def _wander(random: np.random.Generator, tokens: int, layers: int, hidden: int, shape: RoutingShape) -> Matrix:
    """[tokens, layers, hidden] of unit variance: autoregressive along tokens and along layers."""
    news = random.standard_normal((tokens, layers, hidden), np.float32)
    for layer in range(1, layers):
        news[:, layer] = _mixed(news[:, layer - 1], news[:, layer], shape.continuity)
    for token in range(1, tokens):
        news[token] = _mixed(news[token - 1], news[token], shape.locality)
    topic = random.standard_normal((1, layers, hidden), np.float32)
    return np.float32(shape.topic**0.5) * topic + np.float32((1 - shape.topic) ** 0.5) * news


def _mixed(before: Matrix, new: Matrix, correlation: float) -> Matrix:
    return np.float32(correlation) * before + np.float32((1 - correlation**2) ** 0.5) * new


def _number_passes(requests: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    lengths = [length for prompt, new in requests for length in [prompt] * (prompt > 0) + [1] * new]
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
