"""Which modules are watched, and what is said of those that cannot be run again."""

import pytest
import torch
from torch import Tensor, nn

from offload.kv.new_tokens import NewTokens
from offload.kv.projection import Projection, watch_inputs
from tiers.errors import ModelError


class Attention(nn.Module):
    """Asks its cache for more than ``update``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_idx = 0
        self.proj = nn.Linear(4, 4)

    def forward(self, hidden_states: Tensor, past_key_values: object, attention_mask: object) -> None:
        past_key_values.get_seq_length()  # type: ignore[attr-defined]


class StarvedAttention(Attention):
    """Of a device without memory."""

    def forward(self, hidden_states: Tensor, past_key_values: object, attention_mask: object) -> None:
        raise torch.OutOfMemoryError("no room")


class Block(nn.Module):
    """An MLP that knows its layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_idx = 0
        self.attention = Attention()
        self.mlp = nn.Linear(4, 4)
        self.mlp.layer_idx = 0  # type: ignore[assignment]


def test_attention_is_watched_and_not_the_mlp_behind_it() -> None:
    block = Block()
    assert watch_inputs(block, 8)[0]._module is block.attention


@pytest.mark.parametrize(
    ("module", "error", "said"),
    [(Attention(), ModelError, "run without --x-cache"), (StarvedAttention(), torch.OutOfMemoryError, "no room")],
)
def test_a_module_that_cannot_be_run_again(module: nn.Module, error: type[Exception], said: str) -> None:
    keys = torch.zeros(3, 1, 4)
    with pytest.raises(error, match=said):
        Projection(module, 8).check(NewTokens(keys, keys, torch.zeros(3, 8)))
