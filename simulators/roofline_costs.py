"""What a transformer's forward pass takes on a machine: the roofline of arithmetic and of memory."""

from dataclasses import dataclass
from typing import ClassVar

from simulators.model_costs import ModelShape
from simulators.profile import HardwareProfile


@dataclass(frozen=True, slots=True)
class RooflineCosts:
    """ServingCosts of a model whose weights stay on the device. ``batch`` requests are decoded side by side."""

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
        shape = self.shape
        flops = 2.0 * ((shape.active_weights - shape.head_weights) * new_tokens + shape.head_weights)
        flops += shape.attention_flops(new_tokens, context_tokens)
        nbytes = shape.nbytes_read(new_tokens) + context_tokens * shape.kv_nbytes_per_token
        return max(self._compute_s(flops), self._read_s(nbytes))

    def decode_s(self, tokens: int, context_tokens: int) -> float:
        """See ServingCosts: in a batch whose other requests are like this one."""
        return tokens * self.step_s(self.batch, context_tokens + tokens / 2) / self.batch

    def step_s(self, num_requests: int, context_tokens: float) -> float:
        """See ServingCosts: the weights are read once, and the keys and values of each request."""
        kv_nbytes = num_requests * context_tokens * self.shape.kv_nbytes_per_token
        flops = num_requests * (2.0 * self.shape.active_weights + self.shape.attention_flops(1, int(context_tokens)))
        return max(self._compute_s(flops), self._read_s(self.shape.nbytes_read(num_requests) + kv_nbytes))

    def _compute_s(self, flops: float) -> float:
        return flops / (self.profile.flops_per_s(self.shape.dtype) * self.profile.flops_share)

    def _read_s(self, nbytes: float) -> float:
        return nbytes / (self.profile.memory_bytes_per_s * self.profile.memory_share)
