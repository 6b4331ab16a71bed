"""The floating point type that a model is stored in, and the few tensors that may be of another."""

import re
from collections import Counter
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from offload.dtypes import torch_dtype
from offload.experts.names import CheckpointNames
from offload.weights.binding import is_obsolete
from tiers.block import ExpertKey
from tiers.errors import ModelError
from tiers.weight_tier import STORED, TensorSpec, WeightGroup, WeightTier


def stored_dtype(source: WeightTier) -> str:
    """The type of most bytes, experts in fewer bits aside. Raises ModelError where vocabulary or experts differ."""
    found: Counter[str] = Counter()
    for _, spec in _tensors(source):
        found[spec.dtype] += spec.nbytes
    ((dtype, _),) = found.most_common(1)
    if any(spec.dtype != dtype and group.kind in ("expert", "head", "embedding") for group, spec in _tensors(source)):
        raise _of_several_types(source)
    return dtype


def check_types(source: WeightTier, dtype: str, model: PreTrainedModel, names: CheckpointNames) -> None:
    """Raises ModelError for a tensor of another type than ``dtype``, but for those that the model keeps in float32.

    ``model`` is an empty one of that type. What transformers keeps in float32, such as what is added to the scores of
    experts, is stored so too.
    """
    kept = "|".join(pattern.replace("*", ".*") for pattern in model._get_dtype_plan(torch_dtype(dtype)))  # noqa: SLF001
    made = model.state_dict()
    for _, spec in _tensors(source):
        if spec.dtype == dtype:
            continue
        name = names.renamed(spec.name)
        is_kept = (kept and re.search(kept, name)) or (name in made and made[name].dtype == torch.float32)
        if spec.dtype != "F32" or not is_kept:
            raise _of_several_types(source)


def _tensors(source: WeightTier) -> Iterator[tuple[WeightGroup, TensorSpec]]:
    for group in source.groups:
        if not isinstance(group.key, ExpertKey) or group.key.precision == STORED:
            yield from ((group, spec) for spec in group.tensors if not is_obsolete(spec.name))


def _of_several_types(source: WeightTier) -> ModelError:
    found = ", ".join(sorted({spec.dtype for _, spec in _tensors(source)}))
    return ModelError(f"{source.path}: tensors of several types ({found}); pack it with one --dtype")
