"""What stands in for our own kernels, which Triton compiles for a GPU only."""

import sys
from types import ModuleType

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
    from tests.offload.attention.plain_kernel import plain

    assert all(tensor.is_cuda for tensor in (query, keys, values, pieces))
    assert query.is_contiguous()
    assert pieces.is_contiguous()
    assert keys.stride(2) == values.stride(2) == 1
    return plain(query, keys, values, pieces, scale)


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
