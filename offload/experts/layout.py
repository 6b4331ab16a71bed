"""How the weights of one expert lie in a slot, and what is computed with them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from offload.experts.names import CheckpointNames
from offload.weights.binding import tensor_view
from tiers.errors import ModelError
from tiers.weight_tier import TensorSpec, WeightGroup


def is_experts_module(module: nn.Module) -> bool:
    """Whether a module computes its experts through the experts interface of transformers."""
    return all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "is_concatenated"))


def check_experts(model: PreTrainedModel) -> None:
    """Raises ModelError where a model computes routed experts otherwise: nobody could keep them apart."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        has_weights = any(True for _ in module.parameters(recurse=False))
        if has_weights and "Expert" in kind and "Shared" not in kind and not is_experts_module(module):
            raise ModelError(
                f"it does not compute its experts through the experts interface of transformers ({name} is of {kind})"
            )


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """Views of a slot. ``up`` is one matrix or, where they are no neighbours there, gate and up."""

    up: tuple[Tensor, ...]
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None

    def apply(self, module: Any, tokens: Tensor) -> Tensor:
        """What the expert makes of ``tokens`` [tokens, hidden], as its module in transformers would."""
        product = torch.matmul if module.is_transposed else functional.linear
        parts = [product(tokens, matrix) for matrix in self.up]
        inner = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        if self.up_bias is not None:
            inner = inner + self.up_bias
        inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)  # noqa: SLF001 - the interface's
        output: Tensor = product(inner, self.down)
        if self.down_bias is not None:
            output = output + self.down_bias
        return module.post_expert_norm(output) if getattr(module, "has_post_expert_norm", False) else output


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """The tensors of one expert by role."""

    up: tuple[TensorSpec, ...]
    up_bias: TensorSpec | None
    down: TensorSpec
    down_bias: TensorSpec | None

    @classmethod
    def of(cls, group: WeightGroup, module_name: str, module: nn.Module, names: CheckpointNames) -> "ExpertLayout":
        """Sort the tensors of ``group``. Raises ModelError where they are not those that the module has."""
        found: dict[str, dict[int, TensorSpec]] = {}
        for spec in group.tensors:
            place = names.place(spec.name)
            role = place.name.removeprefix(f"{module_name}.")
            if role not in module._parameters:  # noqa: SLF001 - to name what is wrong
                raise ModelError(f"{module_name} has no place for the tensor {spec.name}; is config.json its own?")
            is_row = len(spec.shape) == len(_shape(module, role)) + 1
            found.setdefault(role, {})[place.part] = replace(spec, shape=spec.shape[1:]) if is_row else spec
        up_name = "gate_up_proj" if module.has_gate else "up_proj"
        roles = [up_name, "down_proj", *([f"{up_name}_bias", "down_proj_bias"] if module.has_bias else [])]
        for role in roles:
            _check(found.get(role, {}), _shape(module, role), group, f"{module_name}.{role}")
        return cls(
            up=_joined([found[up_name][part] for part in sorted(found[up_name])]),
            up_bias=found[f"{up_name}_bias"][0] if module.has_bias else None,
            down=found["down_proj"][0],
            down_bias=found["down_proj_bias"][0] if module.has_bias else None,
        )

    def views(self, buffer: memoryview) -> ExpertWeights:
        """The weights in a slot."""
        return ExpertWeights(
            up=tuple(tensor_view(buffer, spec) for spec in self.up),
            up_bias=None if self.up_bias is None else tensor_view(buffer, self.up_bias),
            down=tensor_view(buffer, self.down),
            down_bias=None if self.down_bias is None else tensor_view(buffer, self.down_bias),
        )


def _shape(module: nn.Module, role: str) -> tuple[int, ...]:
    """Of one expert's share of a parameter."""
    parameter = module._parameters[role]  # noqa: SLF001 - this module's own, by name
    assert parameter is not None
    return tuple(parameter.shape[1:])


def _check(parts: dict[int, TensorSpec], shape: tuple[int, ...], group: WeightGroup, what: str) -> None:
    rows = sum(spec.shape[0] for spec in parts.values())
    if not parts or (rows, *next(iter(parts.values())).shape[1:]) != shape:
        found = ", ".join(f"{spec.name} {spec.shape}" for spec in parts.values()) or "nothing"
        raise ModelError(f"{group.key.name}: {what} has the shape {shape} for one expert, the checkpoint has {found}")


def _joined(parts: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Matrices that lie one after the other are one matrix."""
    first, *others = parts
    position, rows = first.offset + first.nbytes, first.shape[0]
    for spec in others:
        if spec.offset != position or spec.shape[1:] != first.shape[1:]:
            return tuple(parts)
        position, rows = position + spec.nbytes, rows + spec.shape[0]
    return (replace(first, shape=(rows, *first.shape[1:])),)
