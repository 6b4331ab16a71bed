"""A policy of somebody else's, watched at every call: what it does wrong is said at once, and by whose method."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar

from tiers.eviction.base import EvictionPolicy, Expected, K
from tiers.eviction.choose import can_spare
from tiers.supervision import Supervision


class SupervisedPolicy(EvictionPolicy[K]):
    """Asks a policy of the class ``theirs``, which need not inherit from EvictionPolicy, and keeps count of its keys.

    Every method raises PolicyError where theirs raises anything, or does not do what EvictionPolicy says; a wrong call
    of ours is a KeyError before theirs is asked. ``name`` is what it is called in errors.
    """

    theirs: ClassVar[type[Any]]
    name: ClassVar[str]

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._keys: set[K] = set()
        cure = "it must be made with the number of slots alone"
        self._watch = Supervision(self.theirs, self.name, "eviction policy", cure, capacity)

    def insert(self, key: K, cost: float = 1.0) -> None:
        self._expect_new(key)
        self._watch.ask("insert", key, cost)
        self._count("insert", {key})

    def insert_all(self, keys: Collection[K], cost: float = 1.0) -> None:
        if not self._watch.has("insert_all"):
            super().insert_all(keys, cost)
            return
        for key in keys:
            self._expect_new(key)
        if len(set(keys)) < len(keys):
            raise KeyError("a key is named twice")
        self._watch.ask("insert_all", keys, cost)
        self._count("insert_all", keys)

    def insert_ahead(self, key: K, cost: float = 1.0) -> None:
        if not self._watch.has("insert_ahead"):
            self.insert(key, cost)
            return
        self._expect_new(key)
        self._watch.ask("insert_ahead", key, cost)
        self._count("insert_ahead", {key})

    def touch(self, key: K) -> None:
        self._expect_resident(key)
        self._watch.ask("touch", key)

    def remove(self, key: K) -> None:
        self._expect_resident(key)
        self._watch.ask("remove", key)
        self._keys.discard(key)
        self._check_held("remove")

    def announce(self, keys: Sequence[K]) -> None:
        if self._watch.has("announce"):
            self._watch.ask("announce", keys)

    def forecast(self, step: int, expected: Iterable[tuple[K, Expected]]) -> None:
        if self._watch.has("forecast"):
            self._watch.ask("forecast", step, expected)

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if n < 0:
            raise ValueError(f"cannot evict {n} keys; n must be at least 0")
        victims = self._victims(n, protected)
        self._keys.difference_update(victims)
        self._check_held("evict")
        return victims

    def __contains__(self, key: object) -> bool:
        is_held = key in self._keys
        if bool(self._watch.ask("__contains__", key)) is not is_held:
            raise self._watch.did(f"__contains__ says {not is_held} of {key!r}; it must say {is_held}")
        return is_held

    def __len__(self) -> int:
        return len(self._keys)

    def _victims(self, n: int, protected: Collection[K]) -> list[K]:
        given = self._watch.ask("evict", n, protected)
        try:
            victims = list(given)
            chosen = set(victims)
        except TypeError:
            raise self._watch.did(f"evict({n}) gave {given!r}; it must give a list of keys") from None
        if len(victims) not in (0, n):
            raise self._watch.did(f"evict({n}) gave {len(victims)} keys; it must give {n}, or none where fewer may go")
        if len(chosen) < len(victims):
            raise self._watch.did(f"evict({n}) gave a key twice; it must give each once")
        for key in victims:
            if key not in self._keys:
                raise self._watch.did(
                    f"evict({n}) gave {key!r}, which is not resident; it must give keys that were inserted"
                )
            if key in protected:
                raise self._watch.did("evict chose a key that is protected; it must choose another one")
        if not victims and n and can_spare(n, protected, self._keys):
            held = len(self._keys)
            raise self._watch.did(
                f"evict({n}) of {held} keys gave none; it must give {n} where as many are not protected"
            )
        return victims

    def _expect_new(self, key: K) -> None:
        if key in self._keys:
            raise KeyError(key)

    def _expect_resident(self, key: K) -> None:
        if key not in self._keys:
            raise KeyError(key)

    def _count(self, method: str, keys: Collection[K]) -> None:
        self._keys.update(keys)
        self._check_held(method)

    def _check_held(self, method: str) -> None:
        held = self._watch.ask("__len__")
        if held != len(self._keys):
            raise self._watch.did(
                f"{method} left it with {held!r} keys where there are {len(self._keys)}; insert must add its keys, "
                "evict and remove must take theirs away, and __len__ must count them"
            )


class SupervisedPlanner(SupervisedPolicy[K]):
    """One that may be told what will be used; see SupportsPlan."""

    def plan(self, uses: Iterable[object]) -> None:
        """See SupportsPlan."""
        self._watch.ask("plan", uses)
