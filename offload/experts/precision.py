"""Which precision each expert of a packed store gets."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from offload.experts.codecs.registry import CODECS
from simulators.expert_trace import ExpertTrace
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError

COLD: Final = "int2-cold"
"""Four bits, and two for experts that are seldom chosen."""

CHOICES: Final = (*(name for name in CODECS if name != "int2"), COLD)

_COLD_SHARE = 0.3
"""Of the choices of a layer that its cold experts get together; Fate's int2_rate (arXiv 2502.12224)."""


@dataclass(frozen=True, slots=True)
class Precisions:
    """``name`` is what the user asked for, ``of`` gives the precision of an expert, ``tag`` differs where these do."""

    name: str
    of: Callable[[ExpertKey], str]
    tag: str

    @classmethod
    def parse(cls, name: str, trace: ExpertTrace | None) -> "Precisions":
        """``trace`` shows which experts are cold. Raises InvalidOptionError."""
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


def coldest(trace: ExpertTrace, share: float = _COLD_SHARE) -> set[tuple[int, int]]:
    """Layer and number of the least chosen experts, which together got at most ``share`` of their layer's choices."""
    cold: set[tuple[int, int]] = set()
    for index, layer in enumerate(trace.layers.tolist()):
        counts = np.bincount(trace.experts[:, index].ravel(), minlength=trace.num_experts)[: trace.num_experts]
        order = np.argsort(counts, kind="stable")
        within = np.cumsum(counts[order]) <= share * counts.sum()
        cold.update((layer, expert) for expert in order[within].tolist())
    return cold


def described(keys: Iterable[ExpertKey]) -> str:
    """What a store's experts are kept in, most frequent first: ``stored``, or for example ``int4 + int2``."""
    names = [key.precision for key in keys]
    return " + ".join(sorted(set(names), key=lambda name: (-names.count(name), name)))
