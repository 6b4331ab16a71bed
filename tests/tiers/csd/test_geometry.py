"""Where pages lie, and what is no drive."""

from dataclasses import replace

import numpy as np
import pytest

from tests.tiers.csd.kit import SMALL
from tiers.csd.geometry import FlashGeometry
from tiers.errors import InvalidOptionError


def test_neighbours_are_striped_over_channels_then_dies() -> None:
    places = SMALL.places_of(np.arange(9))
    assert places.channel.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert places.die.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0]
    assert places.page.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert not places.block.any()


def test_every_page_belongs_to_one_block() -> None:
    pages = np.concatenate([SMALL.pages_of(block) for block in range(SMALL.num_blocks)])
    assert np.array_equal(np.sort(pages), np.arange(SMALL.num_pages))
    for block in (0, 5, SMALL.num_blocks - 1):
        mine = SMALL.pages_of(block)
        assert (SMALL.blocks_of(mine) == block).all()
        places = SMALL.places_of(mine)
        assert places.page.tolist() == list(range(SMALL.pages_per_block)), "in the order of programming"
        assert {len(set(part.tolist())) for part in (places.channel, places.die, places.block)} == {1}


def test_derived_sizes() -> None:
    assert (SMALL.num_dies, SMALL.num_blocks, SMALL.num_pages, SMALL.capacity_nbytes) == (4, 64, 512, 2 << 20)
    assert FlashGeometry().capacity_nbytes == 1 << 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, "channels is 0; it has to be at least 1"),
        ({"pages_per_block": -3}, "pages_per_block is -3"),
        ({"page_nbytes": 5000}, "page_nbytes 5000 is not a multiple of 4096"),
        ({"dram_nbytes": 4096}, "dram_nbytes 4,096 does not hold the mapping tables of 512 pages, 6,144 bytes"),
        ({"blocks_per_die": 1 << 31}, "choose larger pages"),
    ],
)
def test_what_is_no_drive_is_said(change: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        replace(SMALL, **change)
