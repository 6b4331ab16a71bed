"""Kernels of Triton compiled for GPUs that are not there: what they would take of one."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest

KIB = 1024
SHARED_NBYTES = {75: 64 * KIB, 80: 163 * KIB, 86: 99 * KIB, 89: 99 * KIB, 90: 227 * KIB, 100: 227 * KIB, 120: 99 * KIB}
"""Most that a program may take of a multiprocessor's shared memory, by compute capability (CUDA C++ Programming Guide,
technical specifications). Triton fails at the launch of what takes more."""

on_every_gpu = pytest.mark.parametrize("capability", [75, 86, 90, 120], ids=lambda number: f"sm_{number}")
"""One of each kind: 8.0 and 10.0 have more room than 8.6, whose code they share, and 8.9 has as much."""

needs_compiler = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def compile_for(capability: int, kernel: Any, types: Mapping[str, str], constants: Mapping[str, Any]) -> Any:
    """The compiled ``kernel``, whose pointers and numbers are multiples of 16; ``types`` as Triton writes them."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names: list[str] = kernel.arg_names
    assert set(names) == {*types, *constants}
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned: Any = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if types.get(name, "fp32") != "fp32"
    }
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


def check_fits(capability: int, compiled: Any) -> None:
    """Its shared memory is what such a GPU gives to a program."""
    taken = compiled.metadata.shared
    assert taken <= SHARED_NBYTES[capability], f"{taken / KIB:.0f} KiB of shared memory on sm_{capability}"
