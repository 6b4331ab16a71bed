"""Which precision each expert of a packed store gets."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from offload.experts.precision_name import COLD, parse_precision
from prefetch.miss_precision import least_popular
from simulators.expert_trace import ExpertTrace
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError


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
        try:
            high, low = parse_precision(name)
        except InvalidOptionError as error:
            raise InvalidOptionError(f"--experts {name}: {error}") from None
        if high != COLD:
            return cls(name, lambda _: high, name, low)
        if trace is None:
            raise InvalidOptionError(
                f"--experts {COLD}: needs to know which experts are seldom chosen; record a trace with "
                "'offload trace record' and give it as --trace"
            )
        cold = coldest(trace)
        digest = zlib.crc32(repr(sorted(cold)).encode())
        return cls(name, lambda key: "int2" if (key.layer, key.expert) in cold else "int4", f"{name}-{digest:08x}")


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
