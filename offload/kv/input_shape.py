"""How much of a token is stored where drives keep the input of its keys and values in place of these."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from offload.kv.shape import AttentionShape
from tiers.errors import ModelError


@dataclass(frozen=True, slots=True)
class InputShape:
    """An input as drives take it: two halves, each of ``heads`` times ``head_dim`` numbers."""

    heads: int
    head_dim: int

    @property
    def width(self) -> int:
        """Numbers of a token, zeros at their end included."""
        return 2 * self.heads * self.head_dim


def input_shape(config: PreTrainedConfig, attention: AttentionShape) -> InputShape:
    """Of the input and, where there are any, the cosines and sines of its position.

    Raises ModelError where that is not less than keys and values: heads that share them have little to store.
    """
    kv, hidden = attention.kv, int(config.hidden_size)
    rotary = 2 * kv.key_dim if getattr(config, "rope_parameters", None) else 0
    shape = InputShape(-(-(hidden + rotary) // (2 * kv.key_dim)), kv.key_dim)
    if shape.heads >= kv.heads:
        raise ModelError(
            f"--x-cache: the input of a token's keys and values has {shape.width} numbers in a layer, they have "
            f"{2 * kv.heads * kv.key_dim}: storing it saves nothing; run without --x-cache"
        )
    return shape
