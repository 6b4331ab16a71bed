"""Kernels of Triton run by its interpreter, on the processor."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

_FIRST_FOR_NUMPY = (3, 7)
"""Of Triton's versions: the interpreters before make numbers of arrays of one, which NumPy refuses from 2.4 on."""


def _why_not() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    version = tuple(int(part) for part in importlib.metadata.version("triton").split(".")[:2])
    is_new = tuple(int(part) for part in np.__version__.split(".")[:2]) >= (2, 4)
    return "this Triton's interpreter does not know this NumPy" if is_new and version < _FIRST_FOR_NUMPY else None


needs_interpreter = pytest.mark.skipif(_why_not() is not None, reason=_why_not() or "")


def run_interpreted(module: str) -> None:
    """Call ``check_all`` of a module in a process of its own: Triton asks whether to interpret when it is imported."""
    code = f"from {module} import check_all; check_all()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TRITON_INTERPRET": "1"}, check=True)
