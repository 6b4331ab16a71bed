"""Parameters of a model as views of memory that we manage."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from offload.arenas import SlotBytes
from offload.dtypes import torch_dtype
from tiers.errors import ModelError
from tiers.weight_tier import TensorSpec, WeightGroup


def tensor_view(slot: SlotBytes, spec: TensorSpec) -> Tensor:
    """The tensor that ``spec`` describes inside a slot, without a copy."""
    dtype = torch_dtype(spec.dtype)
    if isinstance(slot, Tensor):
        return slot[spec.offset : spec.offset + spec.nbytes].view(dtype).view(spec.shape)
    return torch.frombuffer(slot, dtype=dtype, count=math.prod(spec.shape), offset=spec.offset).view(spec.shape)


def empty_parameters(model: nn.Module, device: torch.device) -> None:
    """Replace every parameter by an empty one of its type on ``device``, ready to be bound."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):  # noqa: SLF001 - as torch's own load_state_dict(assign)
            if parameter is not None:
                empty = torch.empty(0, dtype=parameter.dtype, device=device)
                module.register_parameter(name, nn.Parameter(empty, requires_grad=False))


@dataclass(frozen=True, slots=True)
class Binding:
    """The parameters of a model that one weight group fills, in the order of the group's tensors."""

    group: WeightGroup
    parameters: tuple[Tensor, ...]

    def attach(self, tensors: Iterable[Tensor]) -> None:
        """Let the parameters look at ``tensors``."""
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.data = tensor

    def detach(self) -> None:
        """Let the parameters look at nothing, so that using them out of turn fails instead of giving old bytes."""
        for parameter in self.parameters:
            parameter.data = parameter.data.new_empty(0)

    def views(self, slot: SlotBytes) -> list[Tensor]:
        """The group's tensors in a slot."""
        return [tensor_view(slot, spec) for spec in self.group.tensors]


_CURE = "is config.json its own?"
_OBSOLETE = r"rotary_emb\.inv_freq$|(^|\.)position_ids$"


def is_obsolete(name: str) -> bool:
    """Whether a tensor is one that old checkpoints hold although it is computed; transformers skips them too."""
    return re.search(_OBSOLETE, name) is not None


class ParameterMap:
    """Finds the place of a checkpoint tensor in a model: by name, with or without the prefix of the base model.

    Made while the parameters still have their shapes; ``places`` empties them, ready to be bound. Buffers that are
    stored count as parameters. ``ignored`` are patterns of names that have no place and need none; ``renamed`` tells
    the model's name of a tensor that its checkpoint calls otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        prefix: str,
        path: object,
        ignored: Iterable[str],
        renamed: Callable[[str], str] = str,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - a value
    ) -> None:
        self._shapes = {name: tuple(place.shape) for name, place in _places(model).items()}
        empty_parameters(model, device)
        self._places = _places(model)
        self._prefix = f"{prefix}."
        self._path = path
        self._ignored = re.compile("|".join((_OBSOLETE, *ignored)))
        self._renamed = renamed
        self._bound: set[str] = set()

    def bind(self, group: WeightGroup) -> Binding:
        """Raises ModelError for a tensor that the model does not have or has in another shape."""
        return Binding(group, tuple(self._find(spec) for spec in group.tensors))

    def check_complete(self) -> None:
        """Raises ModelError if a parameter of the model has not been bound."""
        missing = [name for name in self._places if name not in self._bound]
        if missing:
            some = ", ".join(missing[:3])
            raise ModelError(f"{self._path}: {len(missing)} weights are missing, such as {some}; {_CURE}")

    def _find(self, spec: TensorSpec) -> Tensor:
        renamed = self._renamed(spec.name)  # first: it refuses what has to be converted, also under the same name
        for name in (spec.name, self._prefix + spec.name, spec.name.removeprefix(self._prefix), renamed):
            if name not in self._places:
                continue
            self._bound.add(name)
            if self._shapes[name] != spec.shape:
                raise ModelError(
                    f"{self._path}: {spec.name} has the shape {spec.shape}, config.json says {self._shapes[name]}; "
                    "is it its own?"
                )
            return self._places[name]
        if self._ignored.search(spec.name):
            return torch.empty(0)
        raise ModelError(f"{self._path}: the model has no place for the tensor {spec.name}; {_CURE}")


def _places(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, and those buffers that are stored with them."""
    stored = set(model.state_dict())
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return {**dict(model.named_parameters()), **buffers}


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
