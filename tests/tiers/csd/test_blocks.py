"""Free, valid and dead pages add up, whatever happens; wear is spread; tasks keep to themselves."""

from random import Random

import numpy as np
import pytest

from tests.tiers.csd.kit import SMALL
from tiers.csd.blocks import EraseBlocks
from tiers.csd.geometry import PageNumbers
from tiers.errors import DriveFullError


def put(blocks: EraseBlocks, task: int, n: int) -> PageNumbers:
    """Make room, allocate, program, commit."""
    blocks.require(n)
    while blocks.num_free < n:
        blocks.erase(1)
    pages = blocks.allocate(task, n).pages
    blocks.check()
    blocks.commit(pages)
    blocks.check()
    return pages


def test_pages_are_striped_in_order() -> None:
    blocks = EraseBlocks(SMALL)
    first, second = put(blocks, 0, 10), put(blocks, 0, 30)
    assert np.concatenate([first, second]).tolist() == list(range(32)) + list(range(32, 40))
    assert (blocks.num_free, blocks.num_valid, blocks.num_dead) == (472, 40, 0)


def test_tasks_have_their_own_blocks() -> None:
    blocks = EraseBlocks(SMALL)
    owners: dict[int, set[int]] = {task: set() for task in range(3)}
    for _ in range(5):
        for task, mine in owners.items():
            mine.update(SMALL.blocks_of(put(blocks, task, 7)).tolist())
    assert not owners[0] & owners[1] | owners[1] & owners[2] | owners[0] & owners[2]


def test_a_finished_task_is_erased_without_moving_anything() -> None:
    blocks = EraseBlocks(SMALL)
    mine, others = put(blocks, 0, 70), put(blocks, 1, 70)
    blocks.kill(mine)
    blocks.close(0)
    blocks.check()
    assert (blocks.num_valid, blocks.num_dead) == (70, 96), "with the rest of the row that was begun"
    erased = blocks.erase(100)
    blocks.check()
    assert set(SMALL.blocks_of(mine).tolist()) == set(erased.tolist())
    assert (blocks.num_free, blocks.num_valid, blocks.num_dead) == (442, 70, 0)
    assert blocks.is_valid[others].all()


def test_the_first_to_die_is_the_first_to_be_erased() -> None:
    blocks = EraseBlocks(SMALL)
    parts = [put(blocks, task, 32) for task in range(3)]
    for task in (1, 0, 2):
        blocks.kill(parts[task])
        blocks.close(task)
    order = [set(blocks.erase(4).tolist()) for _ in range(3)]
    assert order == [set(SMALL.blocks_of(parts[task]).tolist()) for task in (1, 0, 2)]


def test_wear_is_spread() -> None:
    """Blocks are taken by their wear, and so differ by one erase at most, however often a small task comes and goes."""
    blocks = EraseBlocks(SMALL)
    for _ in range(100):
        pages = put(blocks, 0, 32)
        blocks.kill(pages)
        blocks.close(0)
        blocks.erase(100)
    assert blocks.wear.sum() == 400
    assert blocks.wear.max() - blocks.wear.min() <= 1


def test_room_is_shared_when_no_block_is_free() -> None:
    """Every task holds a row of blocks; the rest of the others' rows is used before the drive is called full."""
    blocks = EraseBlocks(SMALL)
    for task in range(16):
        put(blocks, task, 1)
    put(blocks, 0, 512 - 16)
    assert blocks.num_free == 0
    with pytest.raises(DriveFullError, match=r"4,096 bytes of flash wanted, 0 left after reclaim; reclaim"):
        blocks.require(1)


def test_a_full_drive_says_what_it_wants_and_has() -> None:
    blocks = EraseBlocks(SMALL)
    put(blocks, 0, 500)
    with pytest.raises(DriveFullError) as caught:
        blocks.require(13)
    assert (caught.value.wanted_nbytes, caught.value.available_nbytes) == (13 * 4096, 12 * 4096)
    blocks.check()


@pytest.mark.parametrize("seed", range(4))
def test_the_books_add_up(seed: int) -> None:
    """Tasks write, lose sequences and end in any order."""
    random = Random(seed)
    blocks = EraseBlocks(SMALL)
    alive: dict[int, list[PageNumbers]] = {}
    for _ in range(150):
        task = random.randrange(5)
        try:
            alive.setdefault(task, []).append(put(blocks, task, random.choice((1, 3, 17, 60))))
        except DriveFullError:
            for pages in alive.pop(random.choice(list(alive))):
                blocks.kill(pages)
        if random.random() < 0.3 and alive.get(task):
            blocks.kill(alive[task].pop(random.randrange(len(alive[task]))))
        if not alive.get(task):
            alive.pop(task, None)
            blocks.close(task)
        blocks.check()
        assert blocks.num_valid == sum(pages.size for parts in alive.values() for pages in parts)
