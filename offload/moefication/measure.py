"""How good a model is on text, and how its routers behave."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from offload.moefication.calibrate import Advance, layers_of

_POSITIONS_AT_ONCE: Final = 256


def perplexity(model: PreTrainedModel, windows: Tensor, advance: Advance) -> float:
    """Of all tokens of ``windows`` [windows, tokens] but the first of each, given those before them in the window."""
    head = model.get_output_embeddings()
    loss = 0.0
    with torch.inference_mode():
        for window in windows:
            hidden = model.base_model(input_ids=window[None], use_cache=False).last_hidden_state[0]
            # A part at a time: the logits of a whole window would be the largest tensor of all.
            for begin in range(0, len(window) - 1, _POSITIONS_AT_ONCE):
                targets = window[begin + 1 : begin + 1 + _POSITIONS_AT_ONCE]
                logits = head(hidden[begin : begin + len(targets)]).float()
                loss += functional.cross_entropy(logits, targets, reduction="sum").item()
            advance(len(window))
    return math.exp(loss / (windows.numel() - len(windows)))


@dataclass(frozen=True, slots=True)
class RoutingFigures:
    """``overlap_next_token``: share of a token's experts that the next one uses too; top_k / experts by chance.

    ``load_skew``: tokens of the busiest expert of a layer over those of its average expert. Both are means over layers.
    """

    overlap_next_token: float
    load_skew: float


@contextmanager
def routing_watched(model: PreTrainedModel) -> Iterator[Callable[[], RoutingFigures]]:
    """While it lasts the routing of the mixtures in ``model`` is counted; what it gives out says how it was."""
    layers = layers_of(model)
    counts = [_RoutingCounts(layer.mlp) for layer in layers]

    def figures() -> RoutingFigures:
        overlaps, skews = zip(*((count.overlap, count.skew) for count in counts), strict=True)
        return RoutingFigures(sum(overlaps) / len(overlaps), sum(skews) / len(skews))

    with ExitStack() as stack:
        for layer, count in zip(layers, counts, strict=True):
            stack.callback(layer.mlp.register_forward_pre_hook(count.add).remove)
        yield figures


class _RoutingCounts:
    """Tokens of each expert of a layer, and how often a token shares an expert with the one before it."""

    def __init__(self, layer: Any) -> None:
        self._experts, self._top_k = layer.shape.experts, layer.shape.top_k
        self._tokens = torch.zeros(self._experts)
        self._common = 0.0
        self._pairs = 0

    def add(self, layer: Any, inputs: tuple[Tensor, ...]) -> None:
        chosen, _ = layer.route(inputs[0])
        used = functional.one_hot(chosen, self._experts).sum(dim=-2).float()
        self._tokens += used.flatten(0, -2).sum(dim=0)
        self._common += (used[:, 1:] * used[:, :-1]).sum().item()
        self._pairs += used.shape[0] * (used.shape[1] - 1)

    @property
    def overlap(self) -> float:
        return self._common / (self._pairs * float(self._top_k))

    @property
    def skew(self) -> float:
        return (self._tokens.max() / self._tokens.mean()).item()
