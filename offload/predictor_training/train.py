"""Trains a network that foresees the path of a token through the experts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from offload.predictor_training.lessons import Pieces, targets
from offload.predictor_training.network import PathNetwork, Shape
from prefetch.path_file import PathFile
from simulators.expert_trace import ExpertTrace

_BATCH = 8
_UNKNOWN = 0.1
"""Share of tokens that are hidden from a network with an embedding of its own, so that it learns of unknown ones."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Course:
    """How to train. A step takes eight pieces."""

    shape: Shape
    steps: int = 600
    seed: int = 0
    learning_rate: float = 1e-2


def train(
    trace: ExpertTrace,
    pieces: Pieces,
    course: Course,
    *,
    embeddings: Tensor | None = None,
    progress: Progress | None = None,
) -> PathFile:
    """The network after so many steps over ``pieces`` of ``trace``; the same for the same seed.

    ``embeddings`` [vocabulary, hidden] of the model are projected where they are given, so that tokens that the traces
    do not have are known too. The loss is the binary cross-entropy for every expert (routing path) or the divergence
    from the gate's shares (pre-gate). ``progress`` is told of steps.
    """
    known = trace.tokens[np.concatenate(pieces)] if embeddings is None else np.arange(len(embeddings))
    ids = np.unique(known).astype(np.int32)
    random = np.random.default_rng(course.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(course.seed)
        network = PathNetwork(course.shape, len(ids), len(trace.layers), trace.num_experts, embeddings)
        optimiser = torch.optim.AdamW(network.parameters(), lr=course.learning_rate, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, course.learning_rate, total_steps=course.steps + 1, pct_start=0.1
        )
        for step in range(course.steps):
            drawn = [pieces[i] for i in random.integers(len(pieces), size=_BATCH)]
            loss = _loss(network, trace, drawn, ids, random)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if progress:
                progress(step + 1, course.steps)
    arrays = network.arrays()
    return PathFile(
        kind=course.shape.kind,
        model=trace.model,
        num_experts=trace.num_experts,
        top_k=trace.experts.shape[2],
        layers=trace.layers,
        ids=ids,
        attention_heads=course.shape.heads,
        window=course.shape.window,
        arrays=arrays | {"embedding": arrays["embedding"].astype(np.float16)},
    )


def _loss(
    network: PathNetwork,
    trace: ExpertTrace,
    pieces: Pieces,
    ids: NDArray[np.int32],
    random: np.random.Generator,
) -> Tensor:
    """The mean over the tokens of ``pieces``. Short ones are filled up behind their end, which no token before sees."""
    longest = max(map(len, pieces))
    places = np.stack([np.pad(piece, (0, longest - len(piece)), mode="edge") for piece in pieces])
    is_token = torch.from_numpy(np.arange(longest) < np.array([len(piece) for piece in pieces])[:, None])
    rows = np.searchsorted(ids, trace.tokens[places])
    if not network.has_given_embeddings:
        rows = np.where(random.random(rows.shape) < _UNKNOWN, len(ids), rows)
    logits = network(torch.from_numpy(rows))
    visited, shares = targets(trace, places)
    if network.shape.kind == "routing-path":
        losses = functional.binary_cross_entropy_with_logits(logits, visited, reduction="none").mean((-1, -2))
    else:
        losses = -(shares * logits.log_softmax(-1)).sum(-1).mean(-1)
    mean: Tensor = losses[is_token].mean()
    return mean
