from collections import OrderedDict
from random import Random

import pytest

from tiers.eviction.key_queue import KeyQueue


def test_agrees_with_an_ordered_dict() -> None:
    """Over many more keys than it looks ahead; those that come back while they are written down go last again."""
    queue: KeyQueue[int, int] = KeyQueue()
    ordered: OrderedDict[int, int] = OrderedDict()
    random = Random(7)
    for step in range(20_000):
        key = random.randrange(1500)
        if key in ordered and random.random() < 0.5:
            queue.remove(key)
            del ordered[key]
        else:
            queue[key] = ordered[key] = step
        if len(ordered) > 700:
            oldest = ordered.popitem(last=False)
            assert queue.pop_oldest_item() == oldest
            if step % 3 == 0:
                queue.put_back(*oldest)
                ordered[oldest[0]] = oldest[1]
                ordered.move_to_end(oldest[0], last=False)
    assert dict(queue) == dict(ordered)
    queue.drop_oldest(-1)
    queue.drop_oldest(300)
    oldest_first = list(ordered)[300:]
    assert [queue.pop_oldest() for _ in oldest_first[:-2]] == oldest_first[:-2]
    queue.drop_oldest(3)
    assert not queue


def test_refuses_what_is_not_there() -> None:
    queue: KeyQueue[str, None] = KeyQueue()
    for take_out in (queue.pop_oldest, queue.pop_oldest_item, lambda: queue.remove("A")):
        with pytest.raises(KeyError):
            take_out()
