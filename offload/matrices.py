"""The matrices of a weight group that every token is multiplied by, as the kernels see them."""

import math

from tiers.weight_tier import DTYPE_NBYTES, TensorSpec, WeightGroup


def matrices_of(group: WeightGroup) -> tuple[int, ...]:
    """Bytes of each, in the order in which they lie; gate and up of an expert are one where they lie side by side."""
    found: list[int] = []
    before: TensorSpec | None = None
    for spec in sorted((spec for spec in group.tensors if len(spec.shape) > 1), key=_offset):
        nbytes = math.prod(spec.shape) * DTYPE_NBYTES[spec.dtype]
        if group.kind == "expert" and before is not None and _is_joined(before, spec):
            found[-1] += nbytes
            before = None
        else:
            found.append(nbytes)
            before = spec
    return tuple(found)


def activation_nbytes(group: WeightGroup) -> int:
    """Bytes of what the matrices of a group give for one token, in the type of each."""
    return sum(spec.shape[0] * DTYPE_NBYTES[spec.dtype] for spec in group.tensors if len(spec.shape) == 2)


def _offset(spec: TensorSpec) -> int:
    return spec.offset


def _is_joined(one: TensorSpec, other: TensorSpec) -> bool:
    return one.shape == other.shape and one.offset + one.nbytes == other.offset
