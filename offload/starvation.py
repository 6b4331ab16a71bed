"""Memory for activations that runs short: whether it did, and a prompt once more in smaller pieces."""

from typing import Any

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from offload.positions import Positions
from tiers.errors import TierError


class StarvedError(TierError):
    """There was no memory for activations: less of them at a time may do."""


def starved(error: RuntimeError) -> StarvedError | None:
    """The error in our words, where it is one of an allocation; a processor's comes as a plain RuntimeError."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    reason = next((line for line in text if "allocate" in line), text[0])
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in reason:
        return None
    return StarvedError(
        f"device: no memory for activations beside the budget ({reason}); lower --device-memory", tier="device"
    )


def give_back_cached_memory() -> None:
    """Memory that torch keeps for reuse, in pieces that may be too small, back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def smaller_pieces(
    positions: Positions, prompt_tokens: int, new_tokens: int, chunk_tokens: int | None, block_tokens: int
) -> int | None:
    """Half of what was taken at a time, in whole blocks; None where a prompt cannot be cut up any more."""
    taken = min(prompt_tokens, chunk_tokens or prompt_tokens)
    smaller = taken // 2 // block_tokens * block_tokens
    if positions.uncut_tokens(prompt_tokens, new_tokens) > smaller:
        return None
    return smaller or None


class ToldOnce(BaseStreamer):
    """Hands on what it is told, but for the prompt of a generation that begins again."""

    def __init__(self, inner: BaseStreamer) -> None:
        self._inner = inner
        self._num_told = 0
        self._is_again = False

    @property
    def has_tokens(self) -> bool:
        """Whether more than the prompt was told: then there is no beginning again."""
        return self._num_told > 1

    def again(self) -> None:
        """The generation begins again."""
        self._is_again = self._num_told > 0

    def put(self, value: Tensor) -> None:
        if self._is_again:
            self._is_again = False
            return
        self._num_told += 1
        put: Any = self._inner.put
        put(value)

    def end(self) -> None:
        end: Any = self._inner.end
        end()
