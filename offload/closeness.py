"""How far a kernel is from what it should compute."""

from torch import Tensor


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Root mean square error over the root mean square of what is right; NaN where there is one."""
    return float((found - expected).norm() / expected.norm())
