"""How the neurons of a dense feed-forward layer are shared out among experts."""

from dataclasses import dataclass
from typing import Final

from tiers.errors import InvalidOptionError

_STEP: Final = 8
"""Rows of 16 bytes in every type: what the grouped matrix products of torch ask for."""


@dataclass(frozen=True, slots=True)
class MoeShape:
    """``shared`` of the ``neurons`` are in an expert that is always on, the others in ``experts`` of equal size.

    ``top_k`` of the routed experts are active for a token.
    """

    neurons: int
    shared: int
    experts: int
    top_k: int

    @property
    def expert_neurons(self) -> int:
        """Neurons of one routed expert."""
        return (self.neurons - self.shared) // self.experts

    @property
    def active_share(self) -> float:
        """Part of the neurons that a token computes."""
        return (self.shared + self.top_k * self.expert_neurons) / self.neurons


def choose_shape(neurons: int, *, experts: int, top_k: int, shared: int | None = None) -> MoeShape:
    """The shape for layers of ``neurons``; without ``shared``, about a third of them, so that the others divide.

    Experts have a multiple of 8 neurons. InvalidOptionError where the numbers do not go together.
    """
    if top_k > experts:
        raise InvalidOptionError(f"--top-k {top_k}: there are {experts} experts; at most all of them can be active")
    if experts * _STEP > neurons:
        most = f"at most {neurons // _STEP} experts of {_STEP} can be made of them"
        raise InvalidOptionError(f"--experts {experts}: a layer has {neurons} neurons; {most}")
    if shared is None:
        shared = _next_shared(neurons, experts, 2 * neurons // 3)
    if shared > neurons - experts * _STEP or (neurons - shared) % (experts * _STEP):
        best = _next_shared(neurons, experts, neurons - shared)
        raise InvalidOptionError(
            f"--shared-neurons {shared}: the other {neurons - shared} of {neurons} neurons do not make {experts} "
            f"experts of a multiple of {_STEP}; with {best} they would"
        )
    return MoeShape(neurons, shared, experts, top_k)


def _next_shared(neurons: int, experts: int, routed: int) -> int:
    """The shared neurons where at most ``routed`` of the others make the experts, but at least the smallest ones."""
    return neurons - experts * max(_STEP, routed // experts // _STEP * _STEP)
