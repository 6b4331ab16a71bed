"""Which precision each expert of a packed store gets."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from offload.experts.codecs.registry import CODECS
from prefetch.miss_precision import least_popular
from simulators.expert_trace import ExpertTrace
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError
from tiers.weight_tier import STORED

COLD: Final = "int2-cold"
"""Four bits, and two for experts that are seldom chosen."""

CHOICES: Final = (*(name for name in CODECS if name != "int2"), COLD)

_ORDER: Final = (STORED, *CODECS)
"""From exact to small."""


@dataclass(frozen=True, slots=True)
class Precisions:
    """``name`` is what the user asked for, ``of`` gives the precision of an expert, ``tag`` differs where these do.

    ``low`` is the precision of a second, smaller copy of every expert; None without.
    """

    name: str
    of: Callable[[ExpertKey], str]
    tag: str
    low: str | None = None

    @classmethod
    def parse(cls, name: str, trace: ExpertTrace | None) -> "Precisions":
        """``trace`` shows which experts are cold. Raises InvalidOptionError."""
        if "+" in name:
            high, low = _pair(name)
            return cls(name, lambda _: high, name, low)
        if name not in CHOICES:
            raise InvalidOptionError(f"--experts {name}: unknown; choose one of {', '.join(CHOICES)}")
        if name != COLD:
            return cls(name, lambda _: name, name)
        if trace is None:
            raise InvalidOptionError(
                f"--experts {COLD}: needs to know which experts are seldom chosen; record a trace with "
                "'offload trace record' and give it as --trace"
            )
        cold = coldest(trace)
        digest = zlib.crc32(repr(sorted(cold)).encode())
        return cls(name, lambda key: "int2" if (key.layer, key.expert) in cold else "int4", f"{name}-{digest:08x}")


def _pair(name: str) -> tuple[str, str]:
    """High and low precision out of "int8+int2"."""
    high, _, low = name.partition("+")
    if high not in _ORDER or low not in _ORDER or _ORDER.index(high) >= _ORDER.index(low):
        raise InvalidOptionError(
            f"--experts {name}: not a precision and a lower one; write two of {', '.join(_ORDER)}, in this order"
        )
    return high, low


def coldest(trace: ExpertTrace, share: float = 0.3) -> set[tuple[int, int]]:
    """Layer and number of the least chosen experts, which together got at most ``share`` of their layer's choices."""
    cold: set[tuple[int, int]] = set()
    for index, layer in enumerate(trace.layers.tolist()):
        counts = np.bincount(trace.experts[:, index].ravel(), minlength=trace.num_experts)[: trace.num_experts]
        cold.update((layer, expert) for expert in least_popular(counts, share).tolist())
    return cold


def described(keys: Iterable[ExpertKey]) -> str:
    """What a store's experts are kept in, most frequent first: ``stored``, or for example ``int4 + int2``."""
    names = [key.precision for key in keys]
    return " + ".join(sorted(set(names), key=lambda name: (-names.count(name), name)))
