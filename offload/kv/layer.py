"""What the layers of our caches have in common: a mark on new keys and values that the attention function follows."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from tiers.errors import InvalidOptionError, ModelError


class MarkingLayer(CacheLayerMixin):
    """A layer whose ``update`` returns the new keys and values only, marked with itself.

    The attention function follows the mark to the older tokens. Whoever ignores it would see too few, hence the check
    that somebody read it.
    """

    is_croppable = True
    supports_early_init = False

    def __init__(self, index: int, window: int | None, before: "MarkingLayer | None") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index = index
        self.window = window
        self.is_sliding = window is not None
        self.num_tokens = 0
        self.is_read = True
        """Whether the attention function has followed the latest mark."""
        self._before = before

    @property
    @abstractmethod
    def stored_tokens(self) -> Sequence[int]:
        """How many tokens of each row are safe; as many as ``num_tokens`` unless a pass was interrupted."""

    @abstractmethod
    def after_attention(self) -> None:
        """The attention function has followed the latest mark to its end."""
        self.is_read = True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.num_tokens + query_length, 0

    def get_seq_length(self) -> int:
        return self.num_tokens

    def get_max_length(self) -> int:
        return -1

    def offload(self) -> None:
        """Nothing to do: blocks are where they are without being told."""

    def prefetch(self) -> None:
        """Nothing to do: blocks are where they are without being told."""

    def mark(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Tensors take attributes."""
        self.is_read = False
        keys.kv_layer = values.kv_layer = self  # type: ignore[attr-defined]
        return keys, values

    def check_in_step(self, batch: int, new: int) -> None:
        """Raises InvalidOptionError, or ModelError where the layer before has not been read."""
        stored = self.stored_tokens
        if batch != len(stored):
            raise InvalidOptionError(
                f"past_key_values: holds {len(stored)} sequences, but {batch} are given; pass a new cache"
            )
        before = self._before
        if before is not None and not before.is_read:
            raise ModelError(
                f"layer {before.index} computes its attention outside the attention interface of transformers; "
                "a model that does so cannot be offloaded"
            )
        expected = before.num_tokens - new if before is not None else self.num_tokens
        if expected != self.num_tokens or stored.count(expected) < len(stored):
            whole = min(self.num_tokens, *stored)
            what = "a forward pass was interrupted" + ("" if whole else ", or its beams did not fit")
            cure = f"call crop({whole}) or close()" if whole else "call close()"
            raise InvalidOptionError(f"past_key_values: {what}; {cure} before the next one")
