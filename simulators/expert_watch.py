"""What becomes of experts that are fetched ahead: the manager and the mover that ship, and a count beside them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simulators.modelled_link import LinkUse, ModelledTransfer
from simulators.modelled_mover import ModelledMover
from tiers.block import BlockKey
from tiers.manager import TieredMemoryManager


class CancellingMover(ModelledMover):
    """Counts only what has moved of a transfer that is called off."""

    unmoved_nbytes = 0.0
    """Of all transfers that were called off."""

    def cancel(self, transfer: ModelledTransfer) -> bool:
        if not super().cancel(transfer):
            return False
        # What is left has stayed as it was when the transfer was called off.
        whole_s = self.routes[transfer.name].seconds(1, transfer.nbytes)
        left = min(1.0, transfer.remaining_s / whole_s) if whole_s else 0.0
        use = self.links[transfer.name]
        use.nbytes -= round(left * transfer.nbytes)
        use.busy_s -= transfer.remaining_s
        self.unmoved_nbytes += round(left * transfer.nbytes)
        return True

    def used(self) -> Mapping[str, LinkUse]:
        """A copy of the counters."""
        return {name: LinkUse(use.nbytes, use.busy_s, use.num_blocks) for name, use in self.links.items()}


class WatchedManager(TieredMemoryManager):
    """Counts uses of blocks that came ahead of their use, and bytes that came ahead of none."""

    def __init__(self, mover: CancellingMover, *arguments: Any) -> None:
        super().__init__(mover, *arguments)
        self.prefetch_hits = 0
        """Uses of blocks that were there, or on their way, since they were predicted."""
        self.wasted_nbytes = 0.0
        """Fetched ahead and gone before any use."""
        self._watched = mover
        self._ahead: dict[BlockKey, None] = {}
        """Fetched ahead and not used yet."""

    def prefetch(self, keys: Sequence[BlockKey], *, is_guess: bool = False) -> list[BlockKey]:
        """See TieredMemoryManager."""
        here = self.levels[0].slots
        absent = [key for key in keys if key not in here]
        self._write_off(key for key in absent if key in self._ahead)
        there = super().prefetch(keys, is_guess=is_guess)
        self._ahead.update((key, None) for key in absent if key in here)
        return there

    def prepare_load(self, keys: Sequence[BlockKey]) -> None:
        """See TieredMemoryManager."""
        here = self.levels[0].slots
        ready = [key for key in keys if key in self._ahead and key in here]
        super().prepare_load(keys)
        self.prefetch_hits += len(ready)
        for key in ready:
            del self._ahead[key]
        self._write_off(key for key in keys if key in self._ahead)

    def cancel_prefetch(self, keys: Iterable[BlockKey]) -> None:
        """See TieredMemoryManager."""
        keys, before = list(keys), self._watched.unmoved_nbytes
        super().cancel_prefetch(keys)
        here = self.levels[0].slots
        self._write_off(key for key in keys if key in self._ahead and key not in here)
        self.wasted_nbytes -= self._watched.unmoved_nbytes - before

    def settle_ahead(self) -> None:
        """What has left its slot unused is written off now."""
        here = self.levels[0].slots
        self._write_off(key for key in self._ahead if key not in here)

    def end(self) -> None:
        """What was not used until now never is."""
        self._write_off(self._ahead)

    def _write_off(self, keys: Iterable[BlockKey]) -> None:
        for key in list(keys):
            del self._ahead[key]
            self.wasted_nbytes += self.levels[0].tier.block_nbytes
