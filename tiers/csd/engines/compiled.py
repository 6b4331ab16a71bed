"""Whether there are compiled loops on this machine."""

import platform
from functools import cache
from types import ModuleType


@cache
def compiled() -> ModuleType | None:
    """``kernels``; None where numba is not installed, has no room to keep what it compiles, or half is no type."""
    try:
        from llvmlite import binding

        # Without the instruction the compiler would call a function that not every system has.
        if not (binding.get_host_cpu_features().get("f16c") or platform.machine() == "aarch64"):
            return None
        from tiers.csd.engines import kernels
    except (ImportError, RuntimeError, OSError):
        return None
    return kernels
