"""How the keys and values of a block lie in a slot."""

from dataclasses import dataclass

from torch import Tensor

from offload.arenas import SlotBytes
from offload.dtypes import torch_dtype
from tiers.copier import as_tensor
from tiers.tier import align_up


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Token after token, each with the keys of all heads and then the values of all heads.

    Token-major, so that blocks in neighbouring slots are one longer tensor: attention over a run of slots is one kernel
    call, with no gathering. ``dtype`` is spelled as in safetensors ("F32").
    """

    block_tokens: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    dtype: str

    @property
    def values_per_token(self) -> int:
        return self.num_kv_heads * (self.key_dim + self.value_dim)

    @property
    def block_nbytes(self) -> int:
        return self.block_tokens * self.values_per_token * torch_dtype(self.dtype).itemsize

    @property
    def is_aligned(self) -> bool:
        """Whether a block is a whole number of pages, as O_DIRECT wants it."""
        return self.block_nbytes == align_up(self.block_nbytes)

    def rows(self, slots: SlotBytes, num_slots: int) -> Tensor:
        """All that there is of each token, [num_slots * block_tokens, values_per_token], as a view of an arena."""
        arena = as_tensor(slots).view(torch_dtype(self.dtype))
        return arena[: num_slots * self.block_tokens * self.values_per_token].view(-1, self.values_per_token)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [tokens, heads, key_dim] and values alike, as views of ``rows``."""
        width = self.num_kv_heads * self.key_dim
        keys = rows[:, :width].unflatten(1, (self.num_kv_heads, self.key_dim))
        values = rows[:, width:].unflatten(1, (self.num_kv_heads, self.value_dim))
        return keys, values
