"""Parts of the queue's memory are given to one command at a time."""

from collections import deque
from random import Random

from tiers.csd.queue_memory import Arena


def test_parts_do_not_overlap() -> None:
    for seed in range(20):
        random = Random(seed)
        arena, taken = Arena(4096), deque[range]()
        for _ in range(300):
            size = random.randrange(0, 2000)
            start = arena.take(size)
            if start is None:
                assert taken, "an empty arena takes whatever is not larger than itself"
                arena.give_back()
                taken.popleft()
                continue
            assert start % 64 == 0
            assert start + size <= 4096
            mine = range(start, start + size)
            assert all(mine.stop <= other.start or other.stop <= mine.start for other in taken)
            taken.append(mine)


def test_all_of_it_can_be_taken_and_no_more() -> None:
    arena = Arena(4096)
    assert arena.take(4097) is None
    assert arena.take(4096) == 0
    assert arena.take(1) is None
    arena.give_back()
    assert [arena.take(2048), arena.take(2048), arena.take(1)] == [0, 2048, None]
    arena.give_back()
    assert [arena.take(1024), arena.take(1024), arena.take(64)] == [0, 1024, None]


def test_what_was_taken_last_can_be_taken_back() -> None:
    arena = Arena(4096)
    assert [arena.take(1024), arena.take(1024)] == [0, 1024]
    arena.take_back()
    assert arena.take(2048) == 1024
    arena.give_back()
    arena.give_back()
    assert arena.take(4096) == 0
