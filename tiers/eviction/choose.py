"""What every policy does alike: walk past protected keys, and know beforehand whether enough others are there."""

from collections.abc import Collection, Iterable, Mapping
from itertools import chain, filterfalse, islice
from typing import TypeVar

from tiers.eviction.base import EvictionPolicy, K

V = TypeVar("V")


def pick(candidates: Iterable[K], n: int, protected: Collection[K]) -> list[K]:
    """The first ``n`` candidates outside ``protected``, or fewer where there are no more."""
    if n < 0:
        raise ValueError(f"cannot evict {n} keys; n must be at least 0")
    return list(islice(filterfalse(protected.__contains__, candidates), n))


def evict_first(policy: EvictionPolicy[K], order: Iterable[K], n: int, protected: Collection[K]) -> list[K]:
    """What ``evict`` does of a policy that has all of its keys in one order, the one to evict first at the start."""
    victims = pick(order, n, protected)
    if len(victims) < n:
        return []
    for key in victims:
        policy.remove(key)
    return victims


def can_spare(n: int, protected: Collection[K], *queues: Collection[K]) -> bool:
    """Whether at least ``n`` resident keys lie outside ``protected``. Each is in one of ``queues``.

    A policy whose search for a victim changes its own state asks first, so that a refusal leaves no trace. Where one
    eviction takes less than a microsecond it compares the numbers by itself, since a call takes a tenth of that.
    """
    # Counting costs a walk; it is needed only where protected keys are so many that they might be nearly all of us.
    room = sum(map(len, queues)) - len(protected)
    return 0 <= n <= room or len(pick(chain.from_iterable(queues), n, protected)) == n


def append_all(keys: Collection[K], queue: dict[K, V], value: V, *others: Mapping[K, object]) -> None:
    """Put new keys at the end of a queue; KeyError if one of them is there twice, or in another queue already."""
    num_after = len(queue) + len(keys)
    for each in (queue, *others):
        if not each.keys().isdisjoint(keys):  # a refused call leaves no trace
            raise KeyError("a key was there already")
    for key in keys:
        queue[key] = value
    if len(queue) < num_after:
        raise KeyError("a key is there twice")
