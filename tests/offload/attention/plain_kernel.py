"""What the kernel of attention to many runs computes, by operators that are known to be right."""

import torch
from torch import Tensor

from offload.attention.partial import attend_all


def plain(query: Tensor, keys: Tensor, values: Tensor, pieces: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """A kernel of plain attention, one row and one piece after the other."""
    outputs, logsumexps = [], []
    for asked, cuts in zip(query, pieces.tolist(), strict=True):
        parts = [attend_all(asked.unsqueeze(1), keys[a : max(a, b)], values[a : max(a, b)], scale) for a, b in cuts]
        outputs.append(torch.stack([part.output[:, 0].float() for part in parts]))
        logsumexps.append(torch.stack([part.logsumexp[:, 0] for part in parts]))
    return torch.stack(outputs), torch.stack(logsumexps)
