import os

import pytest

from offload.weights.arena import ResidentArena
from tiers.errors import TierError
from tiers.tier import ALIGNMENT


def test_slots_have_sizes_of_their_own_and_do_not_overlap() -> None:
    arena = ResidentArena("device", [10, 2 * ALIGNMENT, 1])
    assert (arena.num_slots, arena.block_nbytes, arena.nbytes) == (3, 2 * ALIGNMENT, 4 * ALIGNMENT)
    contents = [os.urandom(n) for n in (10, 2 * ALIGNMENT, 1)]
    for slot, content in enumerate(contents):
        arena.write(slot, memoryview(content))
    for slot, content in enumerate(contents):
        assert bytes(arena.view(slot)[: len(content)]) == content
        found = bytearray(len(content))
        arena.read(slot, memoryview(found))
        assert found == content


def test_too_much_for_a_slot() -> None:
    with pytest.raises(TierError, match="4097 bytes do not fit in slot 0"):
        ResidentArena("device", [10]).write(0, memoryview(bytes(ALIGNMENT + 1)))


def test_nothing_stays() -> None:
    arena = ResidentArena("device", [])
    assert (arena.num_slots, arena.nbytes) == (0, 0)
    arena.close()
