"""Kernels that are used only where they have proved to be right, and what is said where they are not."""

from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from tiers.errors import first_line

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Proven(Generic[Value]):
    """``value`` is None where a slower way is taken; ``flaw`` says in one line why, "" where no kernel is for it."""

    value: Value | None
    flaw: str = ""

    @classmethod
    def failed(cls, error: Exception) -> Self:
        """The kernel could not be compiled or did not run: Triton, or the compiler that it calls, is missing."""
        said = f"{type(error).__name__}: {first_line(error)}"
        return cls(None, f"its kernel, which Triton compiles, does not run ({said})")
