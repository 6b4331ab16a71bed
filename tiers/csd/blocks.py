"""Which pages of the flash are free, hold something, or are dead, and how worn each erase block is.

Flash is programmed in order, a page once, and erased a block at a time. Nothing here moves a valid page: pages that
die together have to lie together. So each *task* (a batch of sequences that end together) fills erase blocks of its
own, one on every die, row by row; a task shares blocks with others only when no free block is left.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tiers.csd.geometry import FlashGeometry, PageNumbers
from tiers.errors import DriveFullError


@dataclass(frozen=True, slots=True)
class Allocation:
    """Pages in the order in which they are to be programmed, and the erase blocks that were opened for them."""

    pages: PageNumbers
    opened: PageNumbers


@dataclass(slots=True)
class _Stripe:
    """Erase blocks that a task is filling: ``pages[next:]`` are still free."""

    pages: PageNumbers
    next: int = 0

    @property
    def num_left(self) -> int:
        return self.pages.size - self.next


class EraseBlocks:
    """``free + valid + dead == num_pages``; ``check`` asserts it. All methods are all or nothing."""

    def __init__(self, geometry: FlashGeometry, name: str = "csd") -> None:
        self.geometry = geometry
        self.name = name
        self.wear = np.zeros(geometry.num_blocks, np.uint32)
        """Erases of each block so far."""
        self.is_valid = np.zeros(geometry.num_pages, np.bool_)
        self.num_free = geometry.num_pages
        self.num_valid = 0
        self._is_free = np.ones(geometry.num_blocks, np.bool_)  # neither open nor programmed
        self._num_valid_in = np.zeros(geometry.num_blocks, np.int64)
        self._stripes: dict[int, _Stripe] = {}
        # Blocks without a valid page in the order in which they came to be so: the first to be erased.
        self._erasable: dict[int, None] = {}

    @property
    def num_dead(self) -> int:
        """Programmed, of no use any more, and not yet erased."""
        return self.geometry.num_pages - self.num_free - self.num_valid

    @property
    def num_erasable(self) -> int:
        """Blocks that can be erased at once."""
        return len(self._erasable)

    def require(self, num_pages: int) -> None:
        """DriveFullError if there would not be so many free pages even after erasing all dead blocks."""
        room = self.num_free + self.num_erasable * self.geometry.pages_per_block
        if num_pages > room:
            nbytes = self.geometry.page_nbytes
            raise DriveFullError(
                self.name,
                what="flash",
                wanted_nbytes=num_pages * nbytes,
                available_nbytes=room * nbytes,
                cure="reclaim finished sequences or enlarge the drive",
            )

    def allocate(self, task: int, num_pages: int) -> Allocation:
        """Take free pages; they are dead until ``commit``. The caller has erased enough for them to be there."""
        assert num_pages <= self.num_free, "require and erase come first"
        pages: list[PageNumbers] = []
        opened: list[PageNumbers] = []
        while num_pages:
            stripe = self._stripe_for(task, opened)
            taken = stripe.pages[stripe.next : stripe.next + num_pages]
            stripe.next += taken.size
            num_pages -= taken.size
            self.num_free -= taken.size
            pages.append(taken)
        return Allocation(_joined(pages), _joined(opened))

    def commit(self, pages: PageNumbers) -> None:
        """Allocated pages are programmed, and recorded so that they survive."""
        self.is_valid[pages] = True
        self.num_valid += pages.size
        blocks, counts = np.unique(self.geometry.blocks_of(pages), return_counts=True)
        self._num_valid_in[blocks] += counts
        for block in blocks.tolist():  # one that this very allocation filled to the end was without a valid page
            self._erasable.pop(block, None)

    def kill(self, pages: PageNumbers) -> None:
        """Valid pages whose sequence is finished."""
        assert self.is_valid[pages].all(), "a page dies once"
        self.is_valid[pages] = False
        self.num_valid -= pages.size
        blocks, counts = np.unique(self.geometry.blocks_of(pages), return_counts=True)
        self._num_valid_in[blocks] -= counts
        self._note_erasable(blocks[self._num_valid_in[blocks] == 0])

    def close(self, task: int) -> None:
        """The task is over: what it did not program of its open blocks is dead, or free where nothing was."""
        stripe = self._stripes.pop(task, None)
        if stripe is None:
            return
        left = np.unique(self.geometry.blocks_of(stripe.pages[stripe.next :]))
        used = np.unique(self.geometry.blocks_of(stripe.pages[: stripe.next]))
        untouched = np.setdiff1d(left, used)
        self._is_free[untouched] = True
        self.num_free -= stripe.num_left - untouched.size * self.geometry.pages_per_block
        self._note_erasable(used[self._num_valid_in[used] == 0])

    def erasable(self, most: int) -> PageNumbers:
        """Up to so many dead blocks, those first that died first."""
        return np.fromiter(islice(self._erasable, most), np.int64)

    def erase(self, most: int) -> PageNumbers:
        """Erase the blocks that ``erasable`` gives; returns them."""
        blocks = self.erasable(most)
        for block in blocks.tolist():
            del self._erasable[block]
        self.wear[blocks] += 1
        self._is_free[blocks] = True
        self.num_free += blocks.size * self.geometry.pages_per_block
        return blocks

    def restore(self, *, wear: NDArray[np.uint32], programmed: NDArray[np.bool_]) -> None:
        """Start from what was recorded. Of blocks that may be partly programmed nothing is free until an erase.

        ``commit`` for what they hold, and then ``note_dead_blocks``, follow.
        """
        self.wear[:] = wear
        self._is_free[:] = ~programmed
        self.num_free = int(self._is_free.sum()) * self.geometry.pages_per_block

    def note_dead_blocks(self) -> None:
        """Find all blocks that can be erased."""
        self._note_erasable(np.flatnonzero(~self._is_free & (self._num_valid_in == 0)))

    def programmed_blocks(self) -> PageNumbers:
        """Those that are not free to be opened: open, full or dead."""
        return np.flatnonzero(~self._is_free)

    def check(self) -> None:
        """Raise AssertionError, with the numbers, if the books do not add up."""
        geometry = self.geometry
        left = sum(stripe.num_left for stripe in self._stripes.values())
        free = int(self._is_free.sum()) * geometry.pages_per_block + left
        valid = int(self.is_valid.sum())
        numbers = f"free {free}, valid {valid}, dead {self.num_dead}, pages {geometry.num_pages}"
        assert free == self.num_free, f"{numbers}, counted as free {self.num_free}"
        assert valid == self.num_valid, f"{numbers}, counted as valid {self.num_valid}"
        assert self.num_dead >= 0, numbers
        found = np.bincount(geometry.blocks_of(np.flatnonzero(self.is_valid)), minlength=geometry.num_blocks)
        assert (found == self._num_valid_in).all(), "valid pages of a block are counted wrongly"
        assert not found[self._is_free].any(), "a free block holds a valid page"
        assert not found[list(self._erasable)].any(), "a block with a valid page is to be erased"
        assert not self._is_free[list(self._erasable)].any(), "a free block is to be erased"

    def _stripe_for(self, task: int, opened: list[PageNumbers]) -> _Stripe:
        stripe = self._stripes.get(task)
        if stripe is not None and stripe.num_left:
            return stripe
        blocks = self._least_worn()
        if blocks.size:
            opened.append(blocks)
            self._is_free[blocks] = False
            pages = np.stack([self.geometry.pages_of(block) for block in blocks.tolist()], axis=1).reshape(-1)
            self._retire(task)
            self._stripes[task] = _Stripe(pages)
            return self._stripes[task]
        return max(self._stripes.values(), key=lambda stripe: stripe.num_left)

    def _retire(self, task: int) -> None:
        """A full stripe goes; those of its blocks whose pages have died meanwhile can be erased."""
        stripe = self._stripes.pop(task, None)
        if stripe is not None:
            blocks = np.unique(self.geometry.blocks_of(stripe.pages))
            self._note_erasable(blocks[self._num_valid_in[blocks] == 0])

    def _least_worn(self) -> PageNumbers:
        """A free block of every die that has one, the least worn; the lowest of equals, so that pages lie in order."""
        geometry = self.geometry
        by_die = (geometry.blocks_per_die, geometry.num_dies)
        wear = np.where(self._is_free, self.wear.astype(np.int64), np.iinfo(np.int64).max).reshape(by_die)
        rows = wear.argmin(axis=0)
        blocks = rows * geometry.num_dies + np.arange(geometry.num_dies)
        return np.asarray(blocks[self._is_free[blocks]])

    def _note_erasable(self, blocks: PageNumbers) -> None:
        """Blocks without a valid page can be erased, unless somebody is still filling them."""
        if not blocks.size:
            return
        is_open = np.zeros(self.geometry.num_blocks, np.bool_)
        for stripe in self._stripes.values():
            is_open[self.geometry.blocks_of(stripe.pages[stripe.next :])] = True
        for block in blocks[~is_open[blocks]].tolist():
            self._erasable[block] = None


def _joined(parts: list[PageNumbers]) -> PageNumbers:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
