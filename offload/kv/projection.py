"""Keys and values made again of what they were made of: the input of an attention module, and its rotation.

The module itself makes them, as it does for a new token: it is run with a cache that takes them and goes no further.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from offload.kv.drive_layer import DriveLayer
from offload.kv.new_tokens import NewTokens
from offload.starvation import starved
from tiers.errors import ModelError, OffloadError


class Projection:
    """Of one attention module. ``width`` numbers are kept of a token: input, cosines and sines, then zeros."""

    def __init__(self, module: nn.Module, width: int) -> None:
        self._module: Any = module
        self._width = width
        self._hidden = self._rotary = 0

    def note(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the module: leaves [batch, tokens, width] with the layer of the cache."""
        cache = kwargs.get("past_key_values")
        layer = None if cache is None else cache.layers[self._module.layer_idx]
        if isinstance(layer, DriveLayer):
            hidden = args[0] if args else kwargs["hidden_states"]
            layer.inputs = self._packed(hidden, kwargs.get("position_embeddings"))

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """inputs [tokens, width] -> keys and values [tokens, kv_heads, head_dim]."""
        weights = next(self._module.parameters())
        parts = inputs.to(weights).unsqueeze(0).split([self._hidden, self._rotary, self._rotary, self._rest], -1)
        hidden, cos, sin, _ = parts
        rotation: Mapping[str, Any] = {"position_embeddings": (cos, sin)} if self._rotary else {}
        try:
            self._module.forward(hidden_states=hidden, past_key_values=_Taker(), attention_mask=None, **rotation)
        except _Taken as taken:
            keys, values = (part[0].transpose(0, 1) for part in (taken.keys, taken.values))
            return keys, values
        raise self._unknown()

    def check(self, tokens: NewTokens) -> None:
        """Raises ModelError unless ``tokens`` are what becomes of their inputs."""
        assert tokens.inputs is not None, "tokens whose inputs are stored have some"
        close = 1e-4 if tokens.keys.dtype == torch.float32 else 0.05
        try:
            pair = self(tokens.inputs)
        except (OffloadError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and starved(error) is not None:
                raise
            raise self._unknown() from error
        for made, wanted in zip(pair, (tokens.keys, tokens.values), strict=True):
            if made.shape != wanted.shape or (made.to(wanted) - wanted).abs().max() > close * wanted.abs().max():
                raise self._unknown()

    @property
    def _rest(self) -> int:
        return self._width - self._hidden - 2 * self._rotary

    def _packed(self, hidden: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        parts = [hidden, *(part.expand(*hidden.shape[:2], -1) for part in rotation or ())]
        self._hidden, self._rotary = hidden.shape[-1], rotation[0].shape[-1] if rotation else 0
        if self._rest < 0:
            raise self._unknown()
        return torch.cat([*(part.to(hidden) for part in parts), hidden.new_zeros(*hidden.shape[:2], self._rest)], -1)

    def _unknown(self) -> ModelError:
        return ModelError(
            f"{type(self._module).__name__} makes keys and values in a way that cannot be repeated from its input; "
            "run without --x-cache"
        )


def watch_inputs(model: nn.Module, width: int) -> dict[int, Projection]:
    """The projection of every layer, by its index; from now on layers of the cache are told their inputs.

    Of modules that know their layer the first is taken: attention comes before what else may know it.
    """
    found: dict[int, Projection] = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if index is None or index in found:
            continue
        if not any(hasattr(child, "layer_idx") for child in module.children()):
            found[index] = Projection(module, width)
            module.register_forward_pre_hook(found[index].note, with_kwargs=True)
    return found


class _Taken(Exception):  # noqa: N818 - it is none: it is how a module is left before it attends
    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values


class _Taker:
    """Stands where a cache does."""

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        raise _Taken(keys, values)
