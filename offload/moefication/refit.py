"""New down-projections for layers in which experts are missing, by least squares: no steps, no rate, no chance."""

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from offload.moefication.calibrate import Advance, layers_of

_WINDOWS_AT_ONCE: Final = 8
_RIDGE: Final = 0.03
"""Of the mean square of the neurons; what pulls the projection towards the dense one. Ten times less and ten times more
are both worse on unseen text, after tens of thousands of tokens."""


def refit(model: PreTrainedModel, windows: Tensor, advance: Advance) -> None:
    """Change the down-projections of the mixtures in ``model``, first layer first.

    A layer is fitted to what the dense model has after it, given what the mixtures before it leave of their input: it
    corrects their errors too. ``windows`` are token ids [windows, tokens]; all their hidden states are held in memory,
    about tokens * (2 * hidden + neurons) * 4 bytes. Advances by the tokens once.
    """
    base: Any = model.base_model
    layers = layers_of(model)
    with torch.inference_mode():
        dense = base.embed_tokens(windows)
        mixed = dense.clone()
        positions = torch.arange(windows.shape[1])[None]
        rotary = base.rotary_emb(dense, positions)
        done = 0
        for number, layer in enumerate(layers, start=1):
            _refit_layer(layer, dense, mixed, rotary)
            advance(number * windows.numel() // len(layers) - done)
            done = number * windows.numel() // len(layers)


def _refit_layer(layer: Any, dense: Tensor, mixed: Tensor, rotary: Any) -> None:
    """Hidden states [windows, tokens, hidden] of the dense model and of the mixture become those after the layer."""
    mixture = layer.mlp
    neurons, size = mixture.shape.neurons, dense.shape[-1]
    squares, products = torch.zeros(neurons, neurons), torch.zeros(neurons, size)
    active = []
    for dense_batch, mixed_batch in _batches(dense, mixed):
        _attend(layer, dense_batch, rotary)
        _attend(layer, mixed_batch, rotary)
        dense_batch.add_(mixture.dense(layer.post_attention_layernorm(dense_batch)))
        weighted = mixture.weighted(layer.post_attention_layernorm(mixed_batch))
        flat = weighted.flatten(0, 1)
        squares.addmm_(flat.T, flat)
        products.addmm_(flat.T, (dense_batch - mixed_batch).flatten(0, 1))
        active.append(weighted)
    mixture.down.copy_(_solve(squares, products, mixture.down))
    for (_, mixed_batch), weighted in zip(_batches(dense, mixed), active, strict=True):
        mixed_batch.add_(weighted @ mixture.down.T)


def _solve(squares: Tensor, products: Tensor, down: Tensor) -> Tensor:
    ridge = _RIDGE * squares.diagonal().mean()
    squares = squares.double()
    squares.diagonal().add_(ridge)
    solution: Tensor = torch.linalg.solve(squares, products.double() + ridge * down.T)
    return solution.T.float()


def _attend(layer: Any, hidden: Tensor, rotary: Any) -> None:
    """Add the attention of a layer to its input, in place."""
    attended, _ = layer.self_attn(
        hidden_states=layer.input_layernorm(hidden), position_embeddings=rotary, attention_mask=None
    )
    hidden += attended


def _batches(dense: Tensor, mixed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(dense.split(_WINDOWS_AT_ONCE), mixed.split(_WINDOWS_AT_ONCE), strict=True)
