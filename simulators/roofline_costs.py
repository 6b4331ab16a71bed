"""What a transformer's forward pass takes on a machine: the roofline of arithmetic and of memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar

from simulators.model_costs import ModelShape
from simulators.profile import HardwareProfile


@dataclass(frozen=True)
class RooflineCosts:
    """ServingCosts of a model whose weights stay on the device. ``batch`` requests are decoded side by side.

    Without slots, since what is the same for every request is worked out once.
    """

    shape: ModelShape
    profile: HardwareProfile
    batch: int = 1
    waits_for_moves: ClassVar[bool] = False

    def prefill_s(self, new_tokens: int, context_tokens: int) -> float:
        """See ServingCosts: arithmetic, or the reading of weights and of earlier keys and values, whichever is longer.

        The last token alone goes through the head.
        """
        if not new_tokens:
            return 0.0
        flops = 2.0 * ((self._active_weights - self._head_weights) * new_tokens + self._head_weights)
        flops += self.shape.attention_flops(new_tokens, context_tokens)
        nbytes = self._nbytes_read(new_tokens) + context_tokens * self._kv_nbytes_per_token
        return max(flops / self._flops_per_s, nbytes / self._bytes_per_s)

    def decode_s(self, tokens: int, context_tokens: int) -> float:
        """See ServingCosts: in a batch whose other requests are like this one."""
        return tokens * self.step_s(self.batch, context_tokens + tokens / 2) / self.batch

    def step_s(self, num_requests: int, context_tokens: float) -> float:
        """See ServingCosts: the weights are read once, and the keys and values of each request."""
        nbytes = self._nbytes_read(num_requests) + num_requests * context_tokens * self._kv_nbytes_per_token
        flops = num_requests * (2.0 * self._active_weights + self.shape.attention_flops(1, int(context_tokens)))
        return max(flops / self._flops_per_s, nbytes / self._bytes_per_s)

    @cached_property
    def _flops_per_s(self) -> float:
        return self.profile.flops_per_s(self.shape.dtype) * self.profile.flops_share

    @cached_property
    def _bytes_per_s(self) -> float:
        return self.profile.memory_bytes_per_s * self.profile.memory_share

    @cached_property
    def _active_weights(self) -> float:
        return self.shape.active_weights

    @cached_property
    def _head_weights(self) -> int:
        return self.shape.head_weights

    @cached_property
    def _kv_nbytes_per_token(self) -> int:
        return self.shape.kv_nbytes_per_token

    @cached_property
    def _nbytes_read(self) -> Callable[[int], float]:
        """As ``ModelShape.nbytes_read``; many passes have as many tokens as others."""
        return cache(self.shape.nbytes_read)
