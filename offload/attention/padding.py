"""Which tokens of a padded batch are real, worked out once for a forward pass and not in every layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tiers.errors import InvalidOptionError, ModelError


@dataclass(frozen=True, slots=True, eq=False)
class Padding:
    """``visible`` [batch, tokens] is true where a token is real.

    ``first`` is the position of the first real token of each row, the number of tokens where there is none.
    ``is_solid`` tells of each row whether all tokens from there on are real.
    """

    visible: Tensor
    first: tuple[int, ...]
    is_solid: tuple[bool, ...]

    @classmethod
    def of(cls, visible: Tensor) -> "Padding":
        """Work it out from a mask of booleans."""
        tokens = visible.shape[1]
        real = visible.sum(1)
        first = torch.where(real > 0, visible.to(torch.uint8).argmax(1), tokens)
        return cls(visible, tuple(first.tolist()), tuple((real == tokens - first).tolist()))


def padding_mask(
    *,
    kv_length: int,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **_: object,
) -> Padding | None:
    """The mask interface of transformers: what our attention function gets as its mask, None where nothing is padded.

    Raises ModelError where attention is to be anything but causal (``allow_is_causal_skip`` is false then), and
    InvalidOptionError for a mask that does not cover the cached tokens and the new ones.
    """
    if not allow_is_causal_skip:
        raise ModelError("bidirectional, packed and block-wise attention masks are not supported; only causal ones are")
    if attention_mask is None:
        return None
    given, wanted = attention_mask.shape[1], kv_offset + kv_length
    if given != wanted:
        raise InvalidOptionError(
            f"attention_mask covers {given} tokens, but there are {wanted}, those in the cache included"
        )
    visible = attention_mask[:, kv_offset:]
    return None if bool(visible.all()) else Padding.of(visible)
