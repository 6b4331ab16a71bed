"""Runs models that do not fit, by managing device memory, host RAM, NVMe and computational storage as one memory."""

from importlib import import_module
from typing import TYPE_CHECKING

from offload.threads import wait_politely

if TYPE_CHECKING:
    from offload.plan import Plan
    from offload.session import load

__version__ = "0.1.0"
__all__ = ["Plan", "__version__", "load"]

_HOMES = {"Plan": "offload.plan", "load": "offload.session"}


def __getattr__(name: str) -> object:
    # `import offload` stays cheap: torch and transformers load with the first use of a name that needs them.
    if name in _HOMES:
        wait_politely()
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'offload' has no attribute '{name}'")
