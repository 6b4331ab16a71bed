"""What stands in for our own kernels, which Triton compiles for a GPU only."""

import sys
from types import ModuleType

import torch
from torch import Tensor

from offload.experts.packed.stack import PackedStack
from tiers.copies import Runs


def copy_runs(source: Tensor, target: Tensor, runs: Runs, table: Tensor) -> None:
    """See ``tiers.scatter_kernel``."""
    assert table.is_pinned()
    assert len(table) >= len(runs)
    for start, place, nbytes in runs.tolist():
        target[place : place + nbytes].copy_(source[start : start + nbytes], non_blocking=True)


def attend_pieces(query: Tensor, keys: Tensor, values: Tensor, pieces: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """See ``offload.attention.paged_kernel``."""
    from offload.attention.partial import attend_all

    assert all(tensor.is_cuda for tensor in (query, keys, values, pieces))
    assert query.is_contiguous()
    assert keys.stride(2) == values.stride(2) == 1
    parts = [attend_all(query.unsqueeze(1), keys[a:b], values[a:b], scale) for a, b in pieces.tolist()]
    return torch.stack([part.output[:, 0].float() for part in parts]), torch.stack([p.logsumexp[:, 0] for p in parts])


def multiply(stack: PackedStack, tokens: Tensor, slots: Tensor) -> Tensor:
    """See ``offload.experts.packed.kernel``."""
    from offload.experts.packed import reference

    assert all(tensor.is_cuda for tensor in (stack.codes, stack.scales, tokens, slots))
    return reference.multiply(stack, tokens, slots)


def install() -> None:
    """Wherever one of their modules is imported."""
    for name, stand_in in {
        "tiers.scatter_kernel": copy_runs,
        "offload.attention.paged_kernel": attend_pieces,
        "offload.experts.packed.kernel": multiply,
    }.items():
        module = ModuleType(name)
        setattr(module, stand_in.__name__, stand_in)
        sys.modules[name] = module
