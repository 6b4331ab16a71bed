"""The block table of one row of a batch in one layer, with the keys and values of its tokens."""

from torch import Tensor

from offload.kv.store import KVStore
from prefetch.block_table import TokenTable


class BlockTable(TokenTable[KVStore]):
    """See TokenTable."""

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add tokens: keys [tokens, heads, dim] and values alike. Raises TierFullError if no tier has room."""
        count = keys.shape[0]

        def write(slot: int, offset: int, start: int, stop: int) -> None:
            if stop - start == count:
                self._store.write(slot, offset, keys, values)
            else:
                self._store.write(slot, offset, keys[start:stop], values[start:stop])

        self.grow(count, write)

    def make_room(self) -> None:
        """Add one token that somebody else writes. Raises TierFullError if no tier has room."""
        self.grow(1, _write_nothing)


def _write_nothing(slot: int, offset: int, start: int, stop: int) -> None:
    """Of ``prefetch.block_table.Write``: somebody else does."""
