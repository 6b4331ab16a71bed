"""A layer of a cache whose tokens are in drives that compute attention themselves."""

from collections.abc import Sequence

import torch
from torch import Tensor

from offload.kv.drive_rows import DriveRows
from offload.kv.layer import MarkingLayer
from tiers.errors import InvalidOptionError


class DriveLayer(MarkingLayer):
    """New tokens wait for the attention function, which sends them to the drives along with its queries.

    Drives only append, so rows cannot be rolled back, copied or reordered.
    """

    is_croppable = False

    def __init__(self, rows: DriveRows, index: int, before: MarkingLayer | None) -> None:
        super().__init__(index, None, before)
        self.rows = rows
        self.batch = 0
        self.inputs: Tensor | None = None
        """[batch, tokens, width]: what the new tokens are made of, where that is watched (see ``Projection``)."""
        self._num_stored = 0

    @property
    def stored_tokens(self) -> Sequence[int]:
        return [self._num_stored] * self.batch

    def after_attention(self) -> None:
        super().after_attention()
        self._num_stored = self.num_tokens
        self.inputs = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.rows.open(self.index, key_states, value_states, self.inputs)
        self.batch = key_states.shape[0]
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Take note of new tokens, [batch, heads, tokens, dim] each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states.shape[2]
        self.check_in_step(key_states.shape[0], new)
        self.num_tokens += new
        return self.mark(key_states, value_states)

    def reset(self) -> None:
        self.rows.close()
        self.batch = self.num_tokens = self._num_stored = 0
        self.is_initialized = False
        self.is_read = True

    def activate_past_recording(self) -> None:
        raise only_appends("rolled back")

    def kept_by(self, tokens_to_remove: int) -> int:
        """All of them; InvalidOptionError where some should go."""
        kept = tokens_to_remove if tokens_to_remove > 0 else self.num_tokens + tokens_to_remove
        if kept < self.num_tokens:
            raise only_appends("rolled back")
        return self.num_tokens

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing, or InvalidOptionError."""
        self.kept_by(tokens_to_remove)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if beam_idx.tolist() != list(range(self.batch)):
            raise only_appends("reordered for beam search")

    def batch_select_indices(self, indices: Tensor) -> None:
        chosen = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        self.reorder_cache(chosen)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if repeats != 1:
            raise only_appends("copied")


def only_appends(what: str) -> InvalidOptionError:
    """What to raise for a wish that drives cannot fulfil."""
    return InvalidOptionError(
        f"past_key_values: keys and values in a computational drive cannot be {what}; run without --csd"
    )
