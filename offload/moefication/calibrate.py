"""What the experts and the routers of all layers should be, from some text that the dense model reads twice."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from offload.moefication.cluster import order_neurons
from offload.moefication.feed_forward import MixedFeedForward
from offload.moefication.shape import MoeShape

Advance = Callable[[int], None]
"""Told how many tokens have been worked on."""

_WINDOWS_AT_ONCE: Final = 4
_RIDGE: Final = 1e-2
"""Of the mean square of the inputs."""


def calibrate(
    model: PreTrainedModel, windows: Tensor, shape: MoeShape, *, spread: float, seed: int, advance: Advance
) -> None:
    """Replace the dense feed-forward layers of ``model`` by mixtures.

    ``windows`` are token ids [windows, tokens]. A router is the ridge regression of the norms of its experts' outputs
    on the input of the layer, scaled until logits of a token deviate by ``spread`` (root mean square). Takes
    layers * neurons^2 * 4 bytes of memory, and advances by the tokens twice.
    """
    layers = layers_of(model)
    orders = _choose_experts(model, windows, shape, seed, advance)
    sums = [_RouterSums(layer.mlp, order, shape) for layer, order in zip(layers, orders, strict=True)]
    with ExitStack() as stack:
        for layer, total in zip(layers, sums, strict=True):
            stack.enter_context(_watching(layer.mlp, total.add))
        _read(model, windows, advance)
    for layer, order, total in zip(layers, orders, sums, strict=True):
        layer.mlp = MixedFeedForward(layer.mlp, order, total.solve(spread), shape)


def layers_of(model: PreTrainedModel) -> Any:
    """The decoder layers; transformers has no types for them."""
    return model.get_submodule("model.layers")


def _choose_experts(
    model: PreTrainedModel, windows: Tensor, shape: MoeShape, seed: int, advance: Advance
) -> list[Tensor]:
    sums = [_NeuronSums(layer.mlp) for layer in layers_of(model)]
    with ExitStack() as stack:
        for layer, total in zip(layers_of(model), sums, strict=True):
            stack.enter_context(_watching(layer.mlp.down_proj, total.add))
        _read(model, windows, advance)
    tokens = windows.numel()
    orders = []
    for total in sums:
        mean, product = total.mean.double() / tokens, total.product.double() / tokens
        orders.append(torch.from_numpy(order_neurons(_numpy(mean), _numpy(product), shape, seed)))
        advance(0)
    return orders


class _NeuronSums:
    """Sums of the contributions of a layer's neurons, |activation| * |column of down_proj|, and of their products."""

    def __init__(self, dense: Any) -> None:
        self._norms = dense.down_proj.weight.detach().norm(dim=0)
        self.mean = torch.zeros_like(self._norms)
        self.product = self.mean.new_zeros(len(self.mean), len(self.mean))

    def add(self, activations: Tensor) -> None:
        contributions = activations.abs() * self._norms
        self.mean += contributions.sum(dim=0)
        self.product.addmm_(contributions.T, contributions)


class _RouterSums:
    """The sums of a regression of the experts' output norms on the inputs of a layer."""

    def __init__(self, dense: Any, order: Tensor, shape: MoeShape) -> None:
        self._dense = dense
        self._experts = order[shape.shared :].view(shape.experts, -1)
        hidden = dense.down_proj.weight.shape[0]
        self._squares = torch.zeros(hidden, hidden)
        self._products = torch.zeros(hidden, shape.experts)
        self._tokens = 0

    def add(self, inputs: Tensor) -> None:
        dense = self._dense
        neurons = dense.act_fn(dense.gate_proj(inputs)) * dense.up_proj(inputs)
        down = dense.down_proj.weight
        norms = [(neurons[:, expert] @ down[:, expert].T).norm(dim=1) for expert in self._experts]
        self._squares.addmm_(inputs.T, inputs)
        self._products.addmm_(inputs.T, torch.stack(norms, dim=1))
        self._tokens += len(inputs)

    def solve(self, spread: float) -> Tensor:
        """The router [experts, hidden]."""
        squares = self._squares.double() / self._tokens
        ridge = _RIDGE * squares.diagonal().mean() * torch.eye(len(squares), dtype=torch.float64)
        router = torch.linalg.solve(squares + ridge, self._products.double() / self._tokens).T
        # How far logits of one token are apart, on average over tokens.
        centred = router - router.mean(dim=0)
        deviation = (centred @ squares * centred).sum().div(len(router)).sqrt()
        scaled: Tensor = router * (spread / deviation)
        return scaled.float()


@contextmanager
def _watching(module: Any, add: Callable[[Tensor], None]) -> Iterator[None]:
    """``add`` gets the inputs [tokens, width] of ``module``."""
    handle = module.register_forward_pre_hook(lambda _, inputs: add(inputs[0].flatten(0, -2)))
    try:
        yield
    finally:
        handle.remove()


def _read(model: PreTrainedModel, windows: Tensor, advance: Advance) -> None:
    with torch.inference_mode():
        for batch in windows.split(_WINDOWS_AT_ONCE):
            model.base_model(input_ids=batch, use_cache=False)
            advance(batch.numel())


def _numpy(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return tensor.numpy()
