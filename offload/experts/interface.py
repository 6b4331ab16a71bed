"""Our experts function, registered with transformers under a name of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from offload.copies import on_device, on_host
from offload.experts.compute import for_many_tokens, for_one_token, suitable_threads
from offload.experts.grouped import Choices
from offload.experts.stack import SlotStack
from offload.experts.store import ExpertStore
from prefetch.expert_predictor import Routing
from tiers.block import ExpertKey

NAME = "offload_tiered"


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """What an experts module needs to find its experts."""

    store: ExpertStore
    index: int
    keys: Sequence[ExpertKey]
    """Of the experts, by their number."""

    def chosen(self, experts: Sequence[int]) -> list[ExpertKey]:
        """What to visit for these experts: them, or the low copies that may stand in for them."""
        keys = [self.keys[expert] for expert in experts]
        return self.store.low_copies.choose(keys) if self.store.low_copies else keys


def register() -> str:
    """Make the function known to transformers; returns the name for ``experts_implementation``. Idempotent."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, tiered_experts)
    return NAME


def tiered_experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The experts interface of transformers.

    hidden_states [tokens, hidden], top_k_index and top_k_weights [tokens, k] -> [tokens, hidden]. An index of
    ``num_experts`` or more marks a choice that was masked. The order of the sums does not depend on what is cached:
    the same tokens come out whatever the budget, unless copies in a lower precision may stand in for what is missing.
    """
    layer: ExpertLayer = module.tiered_experts
    num_tokens, k = top_k_index.shape
    chosen: NDArray[np.int64] | None = None
    if layer.store.observers:
        routing = _routing(layer.index, hidden_states, top_k_index, top_k_weights)
        layer.store.observe(routing)
        chosen = routing.experts
    stacks = layer.store.stacks(layer.index)
    if not stacks or not all(stack.fits(hidden_states) for stack in stacks.values()):
        outputs = _one_by_one(module, layer, hidden_states, top_k_index)
    elif (settled := layer.store.settled(layer.index)) is not None:
        outputs = _settled(module, layer, settled, hidden_states, top_k_index)
    else:
        if chosen is None:
            (copy,) = on_host(top_k_index)
            chosen = copy.numpy(force=True)
        outputs = _grouped(module, layer, stacks, hidden_states, chosen)
    weighted = outputs * top_k_weights.reshape(-1, 1)
    return weighted.view(num_tokens, k, -1).sum(dim=1).to(hidden_states.dtype)


def _one_by_one(module: Any, layer: ExpertLayer, hidden_states: Tensor, top_k_index: Tensor) -> Tensor:
    """[tokens * k, hidden]: what each chosen expert makes of its token, zeros where a choice was masked."""
    num_tokens, k = top_k_index.shape
    places = _places_of_one(top_k_index) if num_tokens == 1 else _places(top_k_index)
    keys = layer.chosen([expert for expert in places if expert < module.num_experts])
    compute: Any = for_one_token if num_tokens == 1 else for_many_tokens
    with suitable_threads(layer.store.slot_nbytes, num_tokens * k / len(places)):
        outputs: Tensor = compute(module, hidden_states, places, layer.store.visit(keys), k)
    return outputs


def _settled(module: Any, layer: ExpertLayer, stack: SlotStack, hidden_states: Tensor, top_k_index: Tensor) -> Tensor:
    """As ``_one_by_one`` where slot i of the stack is expert i: only the device needs to know who is chosen."""
    num_tokens, k = top_k_index.shape
    # At most: how many different ones they are is not worth waiting for.
    layer.store.manager.stats.hits += min(num_tokens * k, module.num_experts)
    chosen, order = torch.sort(top_k_index.reshape(-1))
    outputs = hidden_states.new_empty(num_tokens * k, hidden_states.shape[-1])
    outputs.index_copy_(0, order, stack.apply(module, _gather(hidden_states, order, k), chosen))
    if getattr(module, "_is_expert_parallel", True):  # else no router masks a choice
        outputs.masked_fill_(top_k_index.reshape(-1, 1) >= module.num_experts, 0)
    return outputs


def _grouped(
    module: Any, layer: ExpertLayer, stacks: Mapping[str, SlotStack], hidden_states: Tensor, chosen: NDArray[np.int64]
) -> Tensor:
    """As ``_one_by_one``: a product for all experts that are there, and one for those that had to come.

    So many for each precision that is among them.
    """
    num_tokens, k = chosen.shape
    choices = Choices.of(chosen)
    keys = layer.chosen([expert for expert in choices.rows if expert < module.num_experts])
    make = hidden_states.new_empty if len(keys) == len(choices.rows) else hidden_states.new_zeros  # for what is masked
    outputs: Tensor = make(num_tokens * k, hidden_states.shape[-1])
    for wave in layer.store.waves(keys, all_at_once=True):
        for precision, stack in stacks.items():
            members = [(slot, key.expert) for key, slot in wave if key.precision == precision]
            if members:
                rows, slots = on_device(choices.wave(members), hidden_states.device)
                outputs.index_copy_(0, rows, stack.apply(module, _gather(hidden_states, rows, k), slots))
    return outputs


def _gather(hidden_states: Tensor, rows: Tensor, k: int) -> Tensor:
    """The token of each of these rows of [tokens * k]."""
    if hidden_states.shape[0] == 1:
        return hidden_states.repeat(rows.shape[0], 1)
    return hidden_states.index_select(0, rows // k)


def _places_of_one(top_k_index: Tensor) -> dict[int, list[int]]:
    """[1, k] -> for each expert where it stands among the choices, in the order of the experts."""
    places: dict[int, list[int]] = {}
    for place, expert in sorted(enumerate(top_k_index[0].tolist()), key=itemgetter(1)):
        places.setdefault(expert, []).append(place)
    return places


def _places(top_k_index: Tensor) -> dict[int, Tensor]:
    """[tokens, k] -> for each expert where it stands among the choices, in the order of the experts."""
    chosen, order = torch.sort(top_k_index.reshape(-1), stable=True)
    experts, counts = torch.unique_consecutive(chosen, return_counts=True)
    return dict(zip(experts.tolist(), torch.split(order, counts.tolist()), strict=True))


def _routing(layer: int, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Routing:
    # Widened here and not there, which would be two more things for the device to do.
    hidden, experts, weights = on_host(hidden_states, top_k_index, top_k_weights)
    return Routing(layer, *(given.numpy(force=True) for given in (hidden.float(), experts, weights.float())))
