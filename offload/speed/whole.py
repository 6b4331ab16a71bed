"""What whole models take more than the sum of their parts: a wide decoder in float32, another one in bfloat16.

Matrices are multiplied more slowly among the small operations of a pass than one after the other, the larger they are
the more, and choosing among many tokens takes longer than among few. What a step of such a decoder takes more than its
own products and as many layers of narrow ones is put down to the products of its modules.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simulators.runtime_profile import RuntimeProfile, Table

_MOST = 1.5
"""Times what a product takes by itself. Outside of one and this it was not the model that was measured."""


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of a decode step of one model, and of its products alone; see ``OwnProducts.module_share``."""

    step_s: float
    products_s: float
    module_share: float

    @property
    def besides_s(self) -> float:
        """All that is no product."""
        return self.step_s - self.products_s


def slower(rounds: Sequence[Sequence[Round]], layers: tuple[int, int], place: int, own_layers: int) -> float:
    """How many times as long as alone the products of a model take within it.

    Each of ``rounds`` has two narrow models of few and many ``layers``, which say what one takes besides its products,
    and at ``place`` the model of ``own_layers`` that is asked about. The round in the middle counts.
    """
    few, many = layers
    found = []
    for models in rounds:
        small, large, whole = models[0], models[1], models[place]
        layer_s = (large.besides_s - small.besides_s) / (many - few)
        more_s = whole.besides_s - small.besides_s - (own_layers - few) * layer_s
        found.append(1 + more_s / (whole.module_share * whole.products_s))
    return min(_MOST, max(1.0, statistics.median(found)))


def with_slower(found: RuntimeProfile, dtype: str, times: float) -> RuntimeProfile:
    """Products of modules of a dtype take so many times as long. In bfloat16 the head and experts are no such ones:
    they have a kernel of their own."""
    tables: dict[str, Any] = {}
    for name in ("products", "vector_products") if dtype == "float32" else ("products",):
        given: Mapping[str, Table] = getattr(found, name)
        if dtype in given:
            tables[name] = {**given, dtype: tuple((nbytes, rate / times) for nbytes, rate in given[dtype])}
    return replace(found, **tables)
