"""The networks that foresee a token's path through the experts, as torch modules; ``prefetch.routing_path`` runs them.

Both read token ids alone, causally, so that a decode step adds one token to a context that is kept.

*Routing path* is after ExpertFlow's predictor (arXiv 2410.17954): a small T5-style encoder (relative position biases, a
ReLU network), a light head for each layer of the model, cross-entropy for every expert. Theirs is 32 wide with a ReLU
network of 2,048, sees the whole input at once and has a decoder; this one looks back only, and is wider where that
helped most.

*Pre-gate* is after the router of Read-ME (arXiv 2410.19123): one causal transformer block with four heads, rotary
positions and SwiGLU, 512 wide there. Theirs chooses the same expert in all layers and is the model's router, so that it
is never wrong; this one imitates the routers of a finished model, layer by layer, and is a guess.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from prefetch.path_file import PathKind
from prefetch.path_network import EPSILON

_BUCKETS = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of a network. ``window`` is how many tokens back, itself included, a token sees."""

    kind: PathKind
    hidden: int
    inner: int
    heads: int
    blocks: int
    window: int

    @classmethod
    def of(cls, kind: PathKind) -> "Shape":
        """The usual one: as wide as a decode step can bear, of which it takes half a millisecond."""
        return cls(kind, hidden=256, inner=1024 if kind == "routing-path" else 768, heads=4, blocks=1, window=128)


class PathNetwork(nn.Module):
    """``embedding`` -> logits of each expert of each of ``num_layers`` layers.

    ``given`` [tokens, width] are embeddings of the model itself, of which a projection is learnt; without them there is
    a learnt row for each of ``num_tokens`` known tokens and, the last, one for all others.
    """

    def __init__(
        self, shape: Shape, num_tokens: int, num_layers: int, num_experts: int, given: Tensor | None = None
    ) -> None:
        super().__init__()
        self.shape = shape
        self.num_layers, self.num_experts = num_layers, num_experts
        self._given: Tensor | None
        self.register_buffer("_given", given, persistent=False)
        self._scale = 1.0 if given is None else float(given.float().square().mean().rsqrt())
        rows = num_tokens + 1 if given is None else given.shape[1]
        self.embedding = _matrix(rows, shape.hidden, scale=1.0 if given is None else rows**-0.5)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.blocks))
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        self.heads = _matrix(shape.hidden, num_layers * num_experts)
        self.offsets = nn.Parameter(torch.zeros(num_layers * num_experts))
        self.dropout = nn.Dropout(0.1)

    @property
    def has_given_embeddings(self) -> bool:
        """Whether it starts from embeddings of the model itself."""
        return self._given is not None

    def forward(self, places: Tensor) -> Tensor:
        """places [sequences, tokens], rows of the embedding -> [sequences, tokens, layers, experts]."""
        if self._given is None:
            x = functional.embedding(places, self.embedding)
        else:
            x = functional.embedding(places, self._given).float() * self._scale @ self.embedding
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = _norm(x, self.norm) @ self.heads + self.offsets
        return logits.view(*places.shape, self.num_layers, self.num_experts)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """What ``prefetch.routing_path`` computes with, by name."""
        arrays = {name: value.detach().numpy() for name, value in self.state_dict().items()}
        if self._given is not None:
            matrix = self._scale * self.embedding.detach()
            table = torch.cat([part.float() @ matrix for part in self._given.split(4096)])
            arrays["embedding"] = torch.cat([table, table.mean(0, keepdim=True)]).numpy()
        for number, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            if (bias := block.bias_by_distance()) is not None:
                arrays[f"blocks.{number}.bias"] = bias.detach().numpy()
        return arrays


class _Block(nn.Module):
    """Attention and a two-layer network, each after a norm and added to what it was given."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._heads, self._window = shape.heads, shape.window
        hidden, inner = shape.hidden, shape.inner
        self.norm_before = nn.Parameter(torch.ones(hidden))
        self.query, self.key = _matrix(hidden, hidden), _matrix(hidden, hidden)
        self.value, self.output = _matrix(hidden, hidden), _matrix(hidden, hidden)
        self.norm_between = nn.Parameter(torch.ones(hidden))
        self.up, self.down = _matrix(hidden, inner), _matrix(inner, hidden)
        is_t5 = shape.kind == "routing-path"
        self.gate = None if is_t5 else _matrix(hidden, inner)
        # Each head begins with a reach of its own, since what is near counts most.
        slopes = 0.25 ** torch.arange(shape.heads)
        self.bias = nn.Parameter(-torch.arange(_BUCKETS)[:, None] * slopes) if is_t5 else None
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self._attend(_norm(x, self.norm_before)))
        y = _norm(x, self.norm_between)
        inner = functional.relu(y @ self.up) if self.gate is None else functional.silu(y @ self.gate) * (y @ self.up)
        added: Tensor = self.dropout(self.dropout(inner) @ self.down)
        return x + added

    def bias_by_distance(self) -> Tensor | None:
        """[window, heads]; None where positions are rotations."""
        return None if self.bias is None else self.bias[_buckets(self._window)]

    def _attend(self, x: Tensor) -> Tensor:
        sequences, tokens, hidden = x.shape
        split = (sequences, tokens, self._heads, hidden // self._heads)
        query, key, value = ((x @ matrix).view(split).transpose(1, 2) for matrix in (self.query, self.key, self.value))
        distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
        is_seen = (distance >= 0) & (distance < self._window)
        mask = torch.zeros(is_seen.shape).masked_fill(~is_seen, -math.inf)
        if (bias := self.bias_by_distance()) is not None:
            mask = mask + bias[distance.clamp(0, self._window - 1)].permute(2, 0, 1)
        else:
            query, key = _rotate(query), _rotate(key)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended: Tensor = seen.transpose(1, 2).reshape(x.shape) @ self.output
        return attended


def _matrix(rows: int, columns: int, scale: float | None = None) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * (rows**-0.5 if scale is None else scale))


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight, EPSILON)


def _rotate(x: Tensor) -> Tensor:
    """Rotary positions of x [sequences, heads, tokens, width]; the first half of the width goes with the second."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 10000.0 ** -(torch.arange(half) / half)
    first, second = x.split(half, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def _buckets(window: int) -> Tensor:
    """T5's buckets of distances: one for each of the near ones, then ever wider ones up to the window."""
    distance = torch.arange(window)
    near = _BUCKETS // 2
    far = near + (distance.clamp(min=1) / near).log() / math.log(max(window, near + 1) / near) * (_BUCKETS - near)
    return torch.where(distance < near, distance, far.long().clamp(max=_BUCKETS - 1))
