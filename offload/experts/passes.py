"""Where a forward pass begins: what an observer of routing needs to know of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.hooks import RemovableHandle
from transformers import Cache, PreTrainedModel

BeginPass = Callable[[NDArray[np.int64], int], None]
"""Takes the token ids [sequences, new tokens] of a pass and the position of the first new ones."""


def announce_passes(model: PreTrainedModel, begin: BeginPass) -> RemovableHandle:
    """Call ``begin`` before each forward pass of ``model`` that is given token ids; ``remove`` what is returned."""

    def before(_model: object, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
        given = (*args, *kwargs.values())
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(tokens, torch.Tensor):
            return
        cache = next((value for value in given if isinstance(value, Cache)), None)
        begin(tokens.detach().cpu().numpy(), 0 if cache is None else int(cache.get_seq_length()))

    return model.register_forward_pre_hook(before, with_kwargs=True)
