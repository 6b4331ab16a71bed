"""The flash of an emulated drive: how many of what, and where a page lies."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiers.errors import InvalidOptionError
from tiers.slots import ALIGNMENT

PageNumbers = NDArray[np.int64]
"""Numbers of physical pages; see ``FlashGeometry.places_of``."""

_POSITIVE = ("channels", "dies_per_channel", "blocks_per_die", "pages_per_block", "page_nbytes", "dram_nbytes")
_MOST_PAGES = 1 << 32
_TABLE_NBYTES_PER_PAGE = 12
"""What the drive keeps in its memory of each page, 32 bits each: its number in a mapping table, and two checksums."""


class PagePlaces(NamedTuple):
    """Where pages lie, one array per coordinate: the channel, the die on it, its erase block, the page in that."""

    channel: PageNumbers
    die: PageNumbers
    block: PageNumbers
    page: PageNumbers


@dataclass(frozen=True, slots=True)
class FlashGeometry:
    """``channels`` x ``dies_per_channel`` dies of ``blocks_per_die`` erase blocks of ``pages_per_block`` pages.

    ``dram_nbytes`` is the drive's own memory, for mapping tables and for tokens that do not fill a page yet. The
    default is 1 GiB of flash, eight channels of sixteen dies: with fewer dies pages of 4 KiB cannot keep a channel
    busy. Raises InvalidOptionError for what is not positive, not aligned, or does not fit.

    Pages are numbered so that page ``n + 1`` lies on the next channel, behind the last channel on the next die, and
    behind the last die in the next page of the same erase blocks. Pages written one after the other are therefore
    striped over the whole drive, and still follow each other in the image file, where they are read in one go.
    """

    channels: int = 8
    dies_per_channel: int = 16
    blocks_per_die: int = 32
    pages_per_block: int = 64
    page_nbytes: int = 4096
    dram_nbytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"flash geometry: {name} is {getattr(self, name)}; it has to be at least 1")
        if self.page_nbytes % ALIGNMENT:
            raise InvalidOptionError(
                f"flash geometry: page_nbytes {self.page_nbytes} is not a multiple of {ALIGNMENT}; choose 4096 or 16384"
            )
        if self.num_pages > _MOST_PAGES:
            raise InvalidOptionError(
                f"flash geometry: {self.num_pages:,} pages; a mapping table counts to {_MOST_PAGES:,}; "
                "choose larger pages or fewer of them"
            )
        if self.table_nbytes > self.dram_nbytes:
            raise InvalidOptionError(
                f"flash geometry: dram_nbytes {self.dram_nbytes:,} does not hold the mapping tables of "
                f"{self.num_pages:,} pages, {self.table_nbytes:,} bytes; raise it or choose larger pages"
            )

    @property
    def num_dies(self) -> int:
        """Over all channels. Die ``i`` is on channel ``i % channels``."""
        return self.channels * self.dies_per_channel

    @property
    def num_blocks(self) -> int:
        """Erase blocks of all dies. Block ``b`` of die ``i`` has number ``b * num_dies + i``."""
        return self.num_dies * self.blocks_per_die

    @property
    def num_pages(self) -> int:
        return self.num_blocks * self.pages_per_block

    @property
    def capacity_nbytes(self) -> int:
        """Of the flash, all pages counted."""
        return self.num_pages * self.page_nbytes

    @property
    def table_nbytes(self) -> int:
        """Of the mapping tables in the drive's memory, every page mapped."""
        return self.num_pages * _TABLE_NBYTES_PER_PAGE

    def blocks_of(self, pages: PageNumbers) -> PageNumbers:
        """The erase block that each page belongs to."""
        row, die = np.divmod(pages, self.num_dies)
        return np.asarray(row // self.pages_per_block * self.num_dies + die)

    def pages_of(self, block: int) -> PageNumbers:
        """The pages of one erase block, in the order in which they are programmed."""
        row, die = divmod(block, self.num_dies)
        first = row * self.pages_per_block * self.num_dies + die
        return first + np.arange(self.pages_per_block, dtype=np.int64) * self.num_dies

    def places_of(self, pages: PageNumbers) -> PagePlaces:
        """Where pages lie, as a model of time wants to know it."""
        row, die = np.divmod(pages, self.num_dies)
        block, page = np.divmod(row, self.pages_per_block)
        return PagePlaces(die % self.channels, die // self.channels, block, page)
