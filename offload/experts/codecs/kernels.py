"""Which of torch's kernels to multiply by, by how many tokens there are."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self


@dataclass(frozen=True, slots=True)
class Kernels:
    """Tokens up to which the kernel made for few of them is the fastest; beyond, weights are widened once for all.

    ``bf16`` is the product of a matrix and a single vector; 0 where the general one is as fast. What is here by default
    was measured on one machine with AVX-512; ``offload doctor`` measures this one.
    """

    bf16: int = 1
    int8: int = 8
    int4: int = 64

    @classmethod
    def of(cls, measured: Mapping[str, int] | None) -> Self:
        """Those of a hardware profile; the default for what was not measured."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: measured[name] for name in names if name in measured} if measured else {})


DEFAULT = Kernels()
