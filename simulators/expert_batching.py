"""How many experts a decode step of a batch touches, by who was put together with whom."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefetch.path import Paths as PathsAhead
from prefetch.request_batches import Batches, arrival_batches, likely_paths, path_batches, queue_batches
from prefetch.token_scheduler import Paths
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import passes_of
from simulators.trace_statistics import chosen_experts
from tiers.errors import TraceError

Group = Callable[[Paths], Batches]
"""From what the tokens of a step need to batches of them."""


@dataclass(frozen=True, slots=True)
class BatchingRow:
    """One way of grouping. Experts are counted in each layer, in the mean over the decode steps of all batches."""

    grouping: str
    experts_per_step: float
    experts_per_token: float
    """What a step touches, shared out over its tokens: what each token costs to load."""


def compare_batching(trace: ExpertTrace, batch: int, foresee: PathsAhead | None = None) -> list[BatchingRow]:
    """The requests of a trace, each on its own routing, ``batch`` at a time, under every way of grouping them.

    Requests are grouped once: by arrival; by the routing of their prompts, as ExpertFlow's and as Read-ME's scheduler
    would; by what ``foresee`` says of their prompts; by the routing of the very steps, which nobody
    knows in time. Or tokens are, at every step, by their own paths, as where paths are known ahead. Raises TraceError
    for fewer than two requests with decode steps.
    """
    requests = _requests(trace)
    if len(requests) < 2:
        raise TraceError(f"the trace of '{trace.model}' has {len(requests)} requests with decode steps; record more")
    steps = [request.steps for request in requests]
    top_k = trace.experts.shape[2]
    prompts = np.stack([request.prompt_shares for request in requests])
    ahead = np.stack([request.steps.mean(axis=0) for request in requests])
    groupings: dict[str, Batches] = {
        "by arrival": arrival_batches(len(requests), batch),
        "by the paths of the prompts (ExpertFlow)": path_batches(likely_paths(prompts, top_k), batch),
        "by queues of the prompts' experts (Read-ME)": queue_batches(prompts.reshape(len(prompts), -1), batch),
    }
    if foresee is not None:
        shares = np.stack([foresee(request.prompt[None], 0).mean(axis=0) for request in requests])
        groupings["by predicted paths"] = path_batches(likely_paths(shares, top_k), batch)
    groupings["by the paths of the steps, if they were known"] = path_batches(likely_paths(ahead, top_k), batch)
    rows = [_row(name, _touched(steps, batches)) for name, batches in groupings.items()]
    regrouped = _regrouped(steps, lambda paths: path_batches(paths, batch))
    return [*rows, _row("anew at every step, by known paths", regrouped)]


@dataclass(frozen=True, slots=True)
class _Request:
    prompt: NDArray[np.int64]
    """Token ids."""
    prompt_shares: NDArray[np.float64]
    """[layers, experts] how often its prompt visits each."""
    steps: NDArray[np.bool_]
    """[decode steps, layers, experts]."""


def _requests(trace: ExpertTrace) -> list[_Request]:
    chosen = chosen_experts(trace)
    is_decode = np.zeros(len(trace.tokens), np.bool_)
    for one in passes_of(trace):
        is_decode[one.tokens] = one.is_decode
    found = []
    for number in np.unique(trace.requests).tolist():
        own = trace.requests == number
        steps = chosen[own & is_decode]
        if len(steps):
            prompt = own & ~is_decode
            found.append(_Request(trace.tokens[prompt].astype(np.int64), chosen[prompt].mean(axis=0), steps))
    return found


def _touched(steps: list[NDArray[np.bool_]], batches: Batches) -> list[tuple[int, int]]:
    """Experts and tokens of each step of each batch; who has no more steps has left."""
    touched = []
    for members in batches:
        for step in range(max(len(steps[member]) for member in members)):
            tokens = [steps[member][step] for member in members if step < len(steps[member])]
            touched.append((int(np.any(tokens, axis=0).sum()), len(tokens)))
    return touched


def _regrouped(steps: list[NDArray[np.bool_]], group: Group) -> list[tuple[int, int]]:
    touched = []
    for step in range(max(map(len, steps))):
        tokens = np.stack([of_request[step] for of_request in steps if step < len(of_request)])
        paths = tokens.reshape(len(tokens), -1)
        touched += [(int(paths[members].any(axis=0).sum()), len(members)) for members in group(paths)]
    return touched


def _row(grouping: str, touched: list[tuple[int, int]]) -> BatchingRow:
    experts, tokens = np.sum(touched, axis=0).tolist()
    return BatchingRow(grouping, experts / len(touched), experts / tokens)
