"""What transformers calls the tensors of a checkpoint, which may have other names and be cut in another way.

transformers keeps, for each family, a list of renamings and of converters that put single experts together to stacks.
We follow the names and leave the experts apart.
"""

from dataclasses import dataclass

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from tiers.errors import ModelError

_FOLLOWED = ("MergeModulelist", "Concatenate")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor belongs: the name of a parameter and, where several make it up, which of them this is."""

    name: str
    part: int = 0


class CheckpointNames:
    """Looks up the place of each tensor of a checkpoint in ``model``, of which only names and shapes are needed."""

    def __init__(self, model: PreTrainedModel) -> None:
        transforms = get_model_conversion_mapping(model)
        self._renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
        self._converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
        self._known = model.state_dict()
        self._prefix = model.base_model_prefix
        self._model_type = model.config.model_type

    def renamed(self, name: str) -> str:
        """The model's name of a tensor that is a parameter by itself. Raises ModelError as ``place``."""
        return self.place(name).name

    def place(self, name: str) -> Place:
        """Raises ModelError for a tensor that transformers converts in a way that we do not follow."""
        target, pattern = rename_source_key(name, self._renamings, self._converters, self._prefix, self._known)
        if pattern is None:
            return Place(target)
        for converter in self._converters:
            if pattern in converter.source_patterns:
                operations = [type(operation).__name__ for operation in converter.operations]
                if len(converter.target_patterns) == 1 and set(operations) <= set(_FOLLOWED):
                    return Place(target, converter.source_patterns.index(pattern))
        raise ModelError(
            f"'{self._model_type}' stores {name} in a form that transformers has to convert first; load it with "
            "transformers, save it with save_pretrained(save_original_format=False), and use that"
        )
