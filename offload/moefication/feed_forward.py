"""The feed-forward layer of the mixture in the form in which it is calibrated, trained and judged."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from offload.moefication.shape import MoeShape


class MixedFeedForward(nn.Module):
    """Takes the place of a dense feed-forward layer. Computes all neurons and multiplies those of experts by weights.

    Without gathering, a step costs what the dense layer costs, which is little next to what small experts cost in
    bookkeeping. ``gate`` and ``up`` [neurons, hidden] and ``down`` [hidden, neurons] have the neurons of the shared
    expert first. ``router`` is [experts, hidden]. The weights of the top k are k times their softmax: on average 1.
    """

    def __init__(self, dense: Any, order: Tensor, router: Tensor, shape: MoeShape) -> None:
        super().__init__()
        self.shape = shape
        self.gate = nn.Parameter(dense.gate_proj.weight.detach()[order])
        self.up = nn.Parameter(dense.up_proj.weight.detach()[order])
        self.down = nn.Parameter(dense.down_proj.weight.detach()[:, order])
        self.router = nn.Parameter(router)
        self.act_fn = dense.act_fn

    def route(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen experts [..., top_k] and their weights."""
        logits = functional.linear(hidden, self.router).float()
        top, chosen = logits.topk(self.shape.top_k, dim=-1)
        return chosen, torch.softmax(top, dim=-1) * self.shape.top_k

    def weighted(self, hidden: Tensor) -> Tensor:
        """Activations [..., neurons] times the weights of their experts: 0 where an expert is not chosen."""
        chosen, top = self.route(hidden)
        neurons = self._neurons(hidden)
        weights = top.new_zeros(*top.shape[:-1], self.shape.experts).scatter(-1, chosen, top).to(neurons.dtype)
        shared, routed = neurons.split([self.shape.shared, self.shape.neurons - self.shape.shared], dim=-1)
        routed = routed.unflatten(-1, (self.shape.experts, -1)) * weights.unsqueeze(-1)
        return torch.cat([shared, routed.flatten(-2)], dim=-1)

    def dense(self, hidden: Tensor) -> Tensor:
        """What comes out with every expert at weight 1."""
        return functional.linear(self._neurons(hidden), self.down)

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(self.weighted(hidden), self.down)

    def _neurons(self, hidden: Tensor) -> Tensor:
        gate: Tensor = self.act_fn(functional.linear(hidden, self.gate))
        return gate * functional.linear(hidden, self.up)
