"""Connects the routed experts of a checkpoint with the modules of a model that compute them."""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from offload.arenas import arena_bytes
from offload.experts.codecs.kernels import DEFAULT, Kernels
from offload.experts.interface import ExpertLayer
from offload.experts.layout import ExpertLayout, is_experts_module
from offload.experts.names import CheckpointNames
from offload.experts.packed.products import tiles_on
from offload.experts.store import ExpertStore
from prefetch.next_gate import Matrix
from tiers.block import ExpertKey
from tiers.copier import as_tensor
from tiers.errors import ModelError
from tiers.weight_tier import WeightGroup

_ROUTER = re.compile(r"Router|Gat(?:e|ing)(?!d)")
_INDEX = re.compile(r"\.(\d+)\.")


def bind_experts(
    model: PreTrainedModel,
    names: CheckpointNames,
    store: ExpertStore | None,
    groups: Sequence[WeightGroup],
    kernels: Kernels = DEFAULT,
) -> None:
    """Tell every experts module where its experts are and how to multiply by them, and take its own parameters away.

    Nobody may fill those. Raises ModelError where the model computes its experts otherwise, or where experts are
    missing.
    """
    layers: dict[int, list[tuple[ExpertKey, WeightGroup]]] = {}
    low: dict[int, list[tuple[ExpertKey, WeightGroup]]] = {}
    for group in groups:
        assert isinstance(group.key, ExpertKey)
        found = layers if group.kind == "expert" else low
        found.setdefault(group.key.layer, []).append((group.key, group))
    modules = experts_modules(model)
    for layer, members in layers.items():
        if layer not in modules:
            raise ModelError(
                f"'{model.config.model_type}' does not compute its experts through the experts interface of "
                "transformers; it cannot be offloaded"
            )
        name, module = modules[layer]
        if len(members) != module.num_experts:
            counts = f"has {module.num_experts} experts, the checkpoint {len(members)}"
            raise ModelError(f"{name} {counts}; is config.json its own?")
        assert store is not None, "what has groups has a store"
        copies = [*members, *low.get(layer, [])]
        tiles = tiles_on(as_tensor(arena_bytes(store.arena)).device)
        store.describe({key: ExpertLayout.of(group, name, module, names, kernels, tiles) for key, group in copies})
        module.tiered_experts = ExpertLayer(store, layer, [key for key, _ in sorted(members, key=_number)])
    for layer, (name, module) in modules.items():
        if layer not in layers:
            raise ModelError(
                f"{name}: no experts for it can be told apart in the checkpoint; is config.json its own? If so, "
                "load it with transformers, save it with save_pretrained, and use that"
            )
        _take_parameters(module)


def _take_parameters(module: nn.Module) -> None:
    for parameter in list(module._parameters):  # noqa: SLF001 - torch has no other way to list one module's own
        module.register_parameter(parameter, None)


def experts_modules(model: PreTrainedModel) -> dict[int, tuple[str, Any]]:
    """Name and module of the experts of each layer that has them, by the layer's index, ascending."""
    found = {_layer_of(name): (name, module) for name, module in model.named_modules() if is_experts_module(module)}
    return dict(sorted(found.items()))


def _number(member: tuple[ExpertKey, WeightGroup]) -> int:
    return member[0].expert


def _layer_of(module_name: str) -> int:
    match = _INDEX.search(f"{module_name}.")
    assert match, f"{module_name} is in no layer"
    return int(match[1])


def expert_keys(model: PreTrainedModel) -> list[list[ExpertKey]]:
    """By layer, the keys of its experts; empty for a layer without experts. Only after ``bind_experts``."""
    modules = experts_modules(model)
    return [list(modules[i][1].tiered_experts.keys) if i in modules else [] for i in range(max(modules) + 1)]


def gate_weights(model: PreTrainedModel) -> dict[int, Matrix]:
    """A copy, in float32, of the weights [experts, hidden] of each layer's gate; empty unless all are on the device.

    A gate is the one matrix with a row for each expert, in a module beside the experts that calls itself a router or a
    gate or, where there is none, anywhere beside them: a shared expert may by chance have as many rows.
    """
    gates = {}
    for layer, (name, module) in experts_modules(model).items():
        block = model.get_submodule(name.rpartition(".")[0])
        routers = [part for part in block.modules() if _ROUTER.search(type(part).__name__)]
        gate = _gate_among(routers, module.num_experts)
        if gate is None:
            gate = _gate_among([block], module.num_experts)
        if gate is None:
            return {}
        gates[layer] = gate.detach().float().cpu().numpy().copy()
    return gates


def _gate_among(modules: Sequence[nn.Module], rows: int) -> Tensor | None:
    parameters = {id(parameter): parameter for module in modules for parameter in module.parameters()}
    found = [p for p in parameters.values() if p.dim() == 2 and p.shape[0] == rows and p.shape[1] > rows]
    return found[0] if len(found) == 1 else None
