"""Parameters of a model as views of memory that we manage."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from offload.dtypes import torch_dtype
from tiers.errors import ModelError
from tiers.weight_tier import TensorSpec, WeightGroup


def tensor_view(buffer: memoryview, spec: TensorSpec) -> Tensor:
    """The tensor that ``spec`` describes inside a slot, without a copy."""
    data = torch.frombuffer(buffer, dtype=torch.uint8, count=spec.nbytes, offset=spec.offset)
    return data.view(torch_dtype(spec.dtype)).view(spec.shape)


def empty_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every parameter by an empty one on the CPU, ready to be bound."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):  # noqa: SLF001 - as torch's own load_state_dict(assign)
            if parameter is not None:
                module.register_parameter(name, nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False))


@dataclass(frozen=True, slots=True)
class Binding:
    """The parameters of a model that one weight group fills, in the order of the group's tensors."""

    group: WeightGroup
    parameters: tuple[nn.Parameter, ...]

    def attach(self, tensors: Iterable[Tensor]) -> None:
        """Let the parameters look at ``tensors``."""
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.data = tensor

    def detach(self) -> None:
        """Let the parameters look at nothing, so that using them out of turn fails instead of giving old bytes."""
        for parameter in self.parameters:
            parameter.data = parameter.data.new_empty(0)

    def views(self, buffer: memoryview) -> list[Tensor]:
        """The group's tensors in a slot."""
        return [tensor_view(buffer, spec) for spec in self.group.tensors]


class ParameterMap:
    """Finds the parameter of a checkpoint tensor: by name, with or without the prefix of the base model."""

    def __init__(self, model: nn.Module, prefix: str, path: object) -> None:
        self._parameters = dict(model.named_parameters())
        self._prefix = f"{prefix}."
        self._path = path
        self._bound: set[str] = set()

    def bind(self, group: WeightGroup) -> Binding:
        """Raises ModelError for a tensor that the model does not have or has in another shape."""
        return Binding(group, tuple(self._find(spec) for spec in group.tensors))

    def check_complete(self) -> None:
        """Raises ModelError if a parameter of the model has not been bound."""
        missing = [name for name in self._parameters if name not in self._bound]
        if missing:
            some = ", ".join(missing[:3])
            raise ModelError(f"{self._path}: {len(missing)} weights are missing, such as {some}; get the model again")

    def _find(self, spec: TensorSpec) -> nn.Parameter:
        for name in (spec.name, self._prefix + spec.name, spec.name.removeprefix(self._prefix)):
            if name in self._parameters:
                self._bound.add(name)
                return self._parameters[name]
        raise ModelError(f"{self._path}: the model has no place for the tensor {spec.name}; is config.json its own?")


def module_of(model: nn.Module, group: WeightGroup, prefix: str) -> nn.Module:
    """The module that a layer group belongs to: the innermost one that has all of its tensors."""
    parts = [spec.name.split(".")[:-1] for spec in group.tensors]
    path = ".".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, zip(*parts, strict=False)))
    for candidate in (path, f"{prefix}.{path}"):
        try:
            return model.get_submodule(candidate)
        except AttributeError:
            continue
    raise ModelError(f"the model has no module {path}; its layers cannot be streamed")
