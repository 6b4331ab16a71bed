"""What of a model is in a graph for good, to be seen where somebody changes it later."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import is_
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from transformers import PreTrainedModel

_OF_TRANSFORMERS = "output_capturing_hook"
"""Name of the hooks that the first call which asks for hidden states leaves in a model; later they do nothing."""

Parts = tuple[list[object], list[int]]
"""Modules, parameters, buffers and methods, compared by identity; the addresses of the parameters and buffers."""


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A model's modules, the memory of its parameters and buffers, its forward methods and kind of attention.

    Cheap enough to be compared before each step (70 us for 32 layers): it is a walk over dictionaries, of which each
    module has the same as long as it lives. What else a module keeps, as a number in an attribute, is not seen.
    """

    hooks: Sequence[Mapping[int, Callable[..., Any]]]
    """Where hooks are noted that a replay would not call: those of all modules but the model itself."""
    _children: list[dict[str, nn.Module | None]]
    _tensors: list[dict[str, Any]]
    _attributes: list[dict[str, Any]]
    _kinds: list[type[nn.Module]]
    _parts: Parts

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Origin":
        """As the model is now."""
        modules = list(model.modules())
        inner = [module for module in modules if module is not model]
        hooks = [hooks for module in inner for hooks in (module._forward_hooks, module._forward_pre_hooks)]  # noqa: SLF001
        hooks += [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]  # noqa: SLF001
        # An empty one is left out: what it is given later is of use only with another forward method.
        children = [module._modules for module in modules if module._modules]  # noqa: SLF001
        tensors = [of for module in modules for of in (module._parameters, module._buffers) if of]  # noqa: SLF001
        attributes = [vars(module) for module in modules]
        kinds = list({type(module) for module in modules})
        return cls(hooks, children, tensors, attributes, kinds, _parts(model, children, tensors, attributes, kinds))

    def is_still(self, model: PreTrainedModel) -> bool:
        """Whether a graph captured then does what the model would do now."""
        (parts, addresses), (now, where) = self._parts, self._now(model)
        return addresses == where and len(parts) == len(now) and all(map(is_, parts, now))

    @property
    def has_hooks(self) -> bool:
        """Whether there are any by which others look at a step; those of transformers look where they are asked to."""
        return any(
            getattr(hook, "__name__", "") != _OF_TRANSFORMERS
            for hooks in self.hooks
            if hooks
            for hook in hooks.values()
        )

    def _now(self, model: PreTrainedModel) -> Parts:
        return _parts(model, self._children, self._tensors, self._attributes, self._kinds)


def wants_gradients(model: nn.Module) -> bool:
    """Whether an answer is to have a history, which a replay has not."""
    return any(parameter.requires_grad for parameter in model.parameters())


def _parts(
    model: PreTrainedModel,
    children: list[dict[str, nn.Module | None]],
    tensors: list[dict[str, Any]],
    attributes: list[dict[str, Any]],
    kinds: list[type[nn.Module]],
) -> Parts:
    found = [tensor for tensor in chain.from_iterable(map(dict.values, tensors)) if tensor is not None]
    parts: list[object] = [
        *chain.from_iterable(map(dict.values, children)),
        *found,
        *map(dict.get, attributes, repeat("forward")),
        *(kind.forward for kind in kinds),
        model.config._attn_implementation,  # noqa: SLF001 - there is no other way to ask
    ]
    return parts, list(map(Tensor.data_ptr, found))
