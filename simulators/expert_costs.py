"""What the parts of a mixture's forward pass take on a machine: the roofline of each, one after the other."""

from dataclasses import dataclass

from simulators.model_costs import ModelShape
from simulators.profile import HardwareProfile


@dataclass(frozen=True, slots=True)
class ExpertCosts:
    """Seconds. What all tokens go through is spread evenly over the layers, as if none of them were dense."""

    shape: ModelShape
    profile: HardwareProfile

    @property
    def expert_nbytes(self) -> int:
        """Of one routed expert."""
        return self.shape.expert_nbytes

    @property
    def resident_nbytes(self) -> int:
        """Of all weights but routed experts: what lies on the device besides the cache of experts."""
        return self.shape.nbytes - self.num_experts * self.expert_nbytes

    @property
    def num_experts(self) -> int:
        """Routed ones, of all layers."""
        return self.shape.routed_experts

    @property
    def expert_layers(self) -> int:
        """Layers that have routed experts."""
        return self.shape.layers - self.shape.dense_layers

    def layer_s(self, sequences: int, tokens: int, context: int) -> float:
        """All of a layer but its routed experts, for ``tokens`` new tokens of each sequence behind ``context``."""
        shape = self.shape
        weights = (shape.weights(0) - shape.head_weights) / shape.layers
        flops = sequences * (2.0 * weights * tokens + shape.attention_flops(tokens, context) / shape.layers)
        kv_nbytes = sequences * context * shape.kv_nbytes_per_token / shape.layers
        return self._roofline_s(flops, weights * shape.item_nbytes + kv_nbytes)

    def expert_s(self, tokens: int) -> float:
        """One expert, for those tokens that chose it."""
        return self._roofline_s(2.0 * self._expert_weights * tokens, self.expert_nbytes)

    def head_s(self, sequences: int) -> float:
        """The logits of the last token of each sequence."""
        weights = self.shape.head_weights
        return self._roofline_s(2.0 * weights * sequences, weights * self.shape.item_nbytes)

    @property
    def _expert_weights(self) -> int:
        return self.shape.feed_forward_matrices * self.shape.hidden * self.shape.intermediate

    def _roofline_s(self, flops: float, nbytes: float) -> float:
        profile = self.profile
        compute_s = flops / (profile.flops_per_s(self.shape.dtype) * profile.flops_share)
        return max(compute_s, nbytes / (profile.memory_bytes_per_s * profile.memory_share))
