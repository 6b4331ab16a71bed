"""One call of a model as a step that a graph can do, or why it is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from offload.attention.padding import padding_mask
from offload.graphs.origin import wants_gradients
from offload.kv.cache import TieredCache

_STEP = {"input_ids", "past_key_values", "position_ids", "attention_mask", "logits_to_keep"}
"""What a step is made of; of one new token all logits are kept, whatever is said."""
_USUAL = {"use_cache": True, "return_dict": True}
"""What may be said of these; of all others that they are not wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One new token for each row, ``ids`` and ``positions`` [rows, 1].

    A row attends to the positions ``begins[row] .. end - 1`` of its sequence, its new token included.
    """

    cache: TieredCache
    ids: Tensor
    positions: Tensor
    begins: tuple[int, ...]
    end: int


def read_step(model: PreTrainedModel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Step | str:
    """The step, or why this is none in a few words; "" for a prompt, which nobody expects to be one.

    Raises InvalidOptionError for a mask that does not cover all tokens.
    """
    cache, ids, positions = (kwargs.get(name) for name in ("past_key_values", "input_ids", "position_ids"))
    if args:
        return "inputs are given without their names"
    if not isinstance(cache, TieredCache) or not cache.get_seq_length():
        return ""
    if isinstance(ids, Tensor) and ids.shape[-1] != 1:
        return ""
    if reason := _reason(model, kwargs, cache.store.rows.device.type):
        return reason
    if not isinstance(ids, Tensor) or not isinstance(positions, Tensor) or positions.shape not in ((1, 1), ids.shape):
        return "input_ids or position_ids are not given, one for each row"
    end = cache.get_seq_length() + 1
    begins = _begins(kwargs.get("attention_mask"), len(ids), end)
    return "there is padding between tokens" if begins is None else Step(cache, ids, positions, begins, end)


def _reason(model: PreTrainedModel, kwargs: Mapping[str, Any], device: str) -> str:
    """Why it is not only the device that has to know of this step."""
    if more := [name for name, value in kwargs.items() if name not in _STEP and not _is_usual(name, value)]:
        return f"{', '.join(sorted(more))} is given"
    if any(getattr(model.config, name, False) for name in ("output_hidden_states", "output_attentions")):
        return "the configuration asks for more than logits"
    if model.training or torch.is_autocast_enabled(device):
        return "the model is in training or under autocast"
    if torch.is_grad_enabled() and wants_gradients(model):
        return "gradients are asked for"
    if torch._C._autograd._profiler_enabled():  # noqa: SLF001 - there is no other way to ask
        return "a profiler looks for the kernels of each layer"
    return ""


def _is_usual(name: str, value: object) -> bool:
    return value is None or value is _USUAL.get(name, False)


def _begins(mask: object, batch: int, end: int) -> tuple[int, ...] | None:
    """The first position that each row attends to; None where what follows is not all of its sequence."""
    if mask is None:
        return (0,) * batch
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        return None
    padding = padding_mask(kv_length=end, attention_mask=mask.bool())
    if padding is None:
        return (0,) * batch
    if not all(padding.is_solid) or max(padding.first) >= end:
        return None
    return padding.first
