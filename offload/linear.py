"""Products of activations and weights by the fastest kernel that torch has for them."""

import torch
from torch import Tensor
from torch.nn import functional


def linear(tokens: Tensor, weight: Tensor, *, by_vector: bool = True) -> Tensor:
    """[..., inputs] x [outputs, inputs] -> [..., outputs], as ``torch.nn.functional.linear``.

    For one token in bfloat16 on a CPU torch's matrix-vector kernel reads memory half as fast again as oneDNN's product,
    on most processors: ``by_vector`` says whether to use it.
    """
    if (
        by_vector
        and tokens.dtype is torch.bfloat16
        and tokens.numel() == weight.shape[1]
        and tokens.device.type == "cpu"
    ):
        return weight.mv(tokens.reshape(-1)).view(*tokens.shape[:-1], -1)
    return functional.linear(tokens, weight)
