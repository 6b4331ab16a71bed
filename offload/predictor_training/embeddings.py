"""The token embeddings of a checkpoint, for predictors that start from them."""

from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from offload.checkpoint.source import model_fingerprint, open_source
from offload.weights.binding import tensor_view
from tiers.errors import ModelError
from tiers.memory_tier import map_memory


def read_embeddings(model: Path, fingerprint: str) -> Tensor:
    """[vocabulary, hidden] as stored. Raises ModelError, also where ``model`` is not the one of that fingerprint."""
    if model_fingerprint(model) != fingerprint:
        raise ModelError(f"{model}: is not the model of which the trace is; name that one or leave --model out")
    with closing(open_source(model)) as source:
        groups = [group for group in source.groups if group.kind == "embedding"]
        groups = groups or [group for group in source.groups if group.kind == "head"]
        slices = []
        for group in sorted(groups, key=lambda group: group.first_row):
            memory = memoryview(map_memory("device", group.nbytes))
            source.read(source.slot_of(group.key), memory)
            slices.append(tensor_view(memory, group.tensors[0]))
        return torch.cat(slices)
