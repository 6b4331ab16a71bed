import pytest
import torch

from offload.attention.padding import Padding, padding_mask
from tiers.errors import InvalidOptionError, ModelError


def test_rows_of_every_kind() -> None:
    """Whole, padded on the left, padded on the right, with a hole, and nothing at all."""
    visible = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]).bool()
    padding = Padding.of(visible)
    assert padding.first == (0, 2, 0, 1, 4)
    assert padding.is_solid == (True, True, False, False, True)


def test_no_padding_is_no_mask() -> None:
    assert padding_mask(kv_length=3) is None
    assert padding_mask(kv_length=3, attention_mask=torch.ones(2, 3, dtype=torch.bool)) is None


def test_padding_is_handed_through() -> None:
    mask = torch.tensor([[False, True, True], [True, True, True]])
    padding = padding_mask(kv_length=3, attention_mask=mask)
    assert padding is not None
    assert padding.first == (1, 0)


def test_only_the_keys_that_are_left_of_a_window() -> None:
    """A cache that is not ours may have dropped the first ones."""
    padding = padding_mask(kv_length=2, kv_offset=2, attention_mask=torch.tensor([[False, False, False, True]]))
    assert padding is not None
    assert padding.visible.tolist() == [[False, True]]


@pytest.mark.parametrize("tokens", [2, 4])
def test_a_mask_of_another_length(tokens: int) -> None:
    with pytest.raises(InvalidOptionError, match=f"attention_mask covers {tokens} tokens, but there are 3"):
        padding_mask(kv_length=3, attention_mask=torch.ones(1, tokens, dtype=torch.bool))


def test_masks_that_are_not_causal() -> None:
    with pytest.raises(ModelError, match="bidirectional, packed and block-wise"):
        padding_mask(kv_length=3, allow_is_causal_skip=False)
