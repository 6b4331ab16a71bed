"""A plugin of pytest: ``pytest -p tests.pretended.plugin -m gpu`` runs tests that need a GPU on the processor.

A test fails if two uses of an arena are not ordered in it. Copies that should not have been waited for, and were since
their memory is not page-locked, are told at the end.
"""

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.pretended import kernels, memory, streams
from tests.pretended.tensors import Pretence, allocated

_TOTAL = 8 * 2**30
_FREE = 7 * 2**30
_BEYOND = {
    "test_too_little_memory_for_activations_is_one_line": "the limit of CUDA's allocator",
    "test_weights_and_kv[cuda]": "the profiler of CUDA",
}
"""Tests, and what of a GPU they need that is not pretended."""


@contextmanager
def _using(device: object) -> Iterator[None]:
    yield


def _facts(device: object = None) -> SimpleNamespace:
    place = {"pci_domain_id": 0, "pci_bus_id": 250, "pci_device_id": 0}
    return SimpleNamespace(name="a pretended GPU", uuid="0", is_integrated=0, total_memory=_TOTAL, **place)


def _as_cuda() -> dict[str, Any]:
    """What takes the place of what in ``torch.cuda``."""
    return streams.as_cuda() | {
        "_lazy_init": lambda: None,
        "_sleep": lambda cycles: None,
        "cudart": memory.Cudart,
        "current_device": lambda: 0,
        "device": _using,
        "device_count": lambda: 1,
        "empty_cache": lambda: None,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "a pretended GPU",
        "get_device_properties": _facts,
        "is_available": lambda: True,
        "max_memory_allocated": lambda device=None: allocated(),
        "mem_get_info": lambda device=None: (_FREE, _TOTAL),
        "memory_allocated": lambda device=None: allocated(),
        "memory_reserved": lambda device=None: allocated(),
        "reset_peak_memory_stats": lambda device=None: None,
    }


def _pretend() -> None:
    """For good, in every thread."""
    # These ask when they are imported whether there is CUDA, and then for more of it than is pretended.
    import transformers.generation.utils  # noqa: F401
    from torch._dynamo import device_interface  # noqa: F401

    for name, stand_in in _as_cuda().items():
        setattr(torch.cuda, name, stand_in)
    # A parameter cannot be moved: let it be replaced.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    kernels.install()
    run = threading.Thread.run

    def pretending(thread: threading.Thread) -> None:
        with Pretence():
            run(thread)

    threads: Any = threading.Thread
    threads.run = pretending
    ExitStack().enter_context(Pretence())


_pretend()


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        # These have a pretence of their own, which records what a processor does.
        what = "CUDA graphs" if "graphs" in item.path.parts else _BEYOND.get(item.name)
        if what:
            item.add_marker(pytest.mark.skip(reason=f"not pretended: {what}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    yield
    if streams.races:
        first, number = streams.races[0], len(streams.races)
        streams.races.clear()
        pytest.fail(f"{number} uses of memory that nothing orders, the first of them:\n{first}", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for place in sorted(set(memory.slow_copies)):
        terminalreporter.section(f"copied {memory.slow_copies.count(place)} times, waited for every time")
        terminalreporter.write(place)
