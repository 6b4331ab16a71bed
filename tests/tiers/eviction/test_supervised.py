"""What a policy of somebody else's does wrong is said by its name and its method's, whenever it happens."""

from collections import OrderedDict
from collections.abc import Collection, Hashable

import pytest

from tests.contracts.eviction import EvictionContract
from tiers.errors import PolicyError
from tiers.eviction.base import EvictionPolicy
from tiers.eviction.batch_plan import BatchPlanPolicy, SupportsPlan
from tiers.eviction.lru import LRUPolicy
from tiers.eviction.supervised import SupervisedPlanner, SupervisedPolicy


class Theirs:
    """LRU without our base class; ``is_bad`` makes it do wrong in the way that a subclass has."""

    def __init__(self, capacity: int) -> None:
        self.keys: OrderedDict[Hashable, None] = OrderedDict()
        self.is_bad = False

    def insert(self, key: Hashable, cost: float = 1.0) -> None:
        self.keys[key] = None

    def touch(self, key: Hashable) -> None:
        self.keys.move_to_end(key)

    def remove(self, key: Hashable) -> None:
        del self.keys[key]

    def evict(self, n: int, protected: Collection[Hashable] = ()) -> list[Hashable]:
        victims = [key for key in self.keys if key not in protected][:n]
        if len(victims) < n:
            return []
        for key in victims:
            del self.keys[key]
        return self.answer(victims, protected) if self.is_bad else victims

    def answer(self, victims: list[Hashable], protected: Collection[Hashable]) -> list[Hashable]:
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def __len__(self) -> int:
        return len(self.keys)


class TooFew(Theirs):
    def answer(self, victims: list[Hashable], protected: Collection[Hashable]) -> list[Hashable]:
        return victims[:1]


class Twice(Theirs):
    def answer(self, victims: list[Hashable], protected: Collection[Hashable]) -> list[Hashable]:
        return [victims[0]] * len(victims)


class Strange(Theirs):
    def answer(self, victims: list[Hashable], protected: Collection[Hashable]) -> list[Hashable]:
        return ["x", "y"]


class Protected(Theirs):
    def answer(self, victims: list[Hashable], protected: Collection[Hashable]) -> list[Hashable]:
        return [victims[0], *protected][:2]


class NoneAtAll(Theirs):
    def answer(self, victims: list[Hashable], protected: Collection[Hashable]) -> list[Hashable]:
        self.keys.update(dict.fromkeys(victims))
        return []


class NoList(Theirs):
    def answer(self, victims: list[Hashable], protected: Collection[Hashable]) -> list[Hashable]:
        return None  # type: ignore[return-value]  # which is what is wrong with it


class Keeps(Theirs):
    def answer(self, victims: list[Hashable], protected: Collection[Hashable]) -> list[Hashable]:
        self.keys.update(dict.fromkeys(victims))
        return victims


class Raises(Theirs):
    def touch(self, key: Hashable) -> None:
        if self.is_bad:
            raise ZeroDivisionError

    def remove(self, key: Hashable) -> None:
        raise SystemExit(3)


class Forgets(Theirs):
    def insert(self, key: Hashable, cost: float = 1.0) -> None:
        if not self.is_bad:
            self.keys[key] = None


class Denies(Theirs):
    def __contains__(self, key: object) -> bool:
        return False


def watched(theirs: type[object], capacity: int = 4) -> SupervisedPolicy[Hashable]:
    """A policy of that class, with the keys 0, 1 and 2, that does wrong from now on."""
    kind: type[SupervisedPolicy[Hashable]] = type("Watched", (SupervisedPolicy,), {"theirs": theirs, "name": "m:P"})
    policy = kind(capacity)
    policy.insert_all([0, 1, 2])
    policy._watch._object.is_bad = True
    return policy


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (TooFew, r"evict\(2\) gave 1 keys; it must give 2, or none where fewer may go"),
        (Twice, r"evict\(2\) gave a key twice; it must give each once"),
        (Strange, r"evict\(2\) gave 'x', which is not resident; it must give keys that were inserted"),
        (Protected, "evict chose a key that is protected; it must choose another one"),
        (NoneAtAll, r"evict\(2\) of 3 keys gave none; it must give 2 where as many are not protected"),
        (NoList, r"evict\(2\) gave None; it must give a list of keys"),
        (Keeps, "evict left it with 3 keys where there are 1; .* evict and remove must take theirs away"),
    ],
)
def test_names_what_is_wrong_with_victims(theirs: type[object], message: str) -> None:
    with pytest.raises(PolicyError, match=f"'m:P' is no eviction policy: {message}"):
        watched(theirs).evict(2, {2})


def test_names_the_method_and_the_line_that_raised() -> None:
    with pytest.raises(PolicyError, match=r"touch raised ZeroDivisionError in test_supervised.py:\d+; --debug shows"):
        watched(Raises).touch(1)
    with pytest.raises(PolicyError, match="remove raised SystemExit: 3 in"):
        watched(Raises).remove(1)


def test_names_the_method_that_lost_a_key() -> None:
    with pytest.raises(PolicyError, match="insert left it with 3 keys where there are 4; insert must add its keys"):
        watched(Forgets).insert(3)
    with pytest.raises(PolicyError, match="__contains__ says False of 1; it must say True"):
        assert 1 in watched(Denies)


def test_what_comes_of_a_fault_is_told_as_the_fault() -> None:
    policy = watched(Protected)
    for _ in range(2):
        with pytest.raises(PolicyError, match="evict chose a key that is protected"):
            policy.evict(2, {2})
    with pytest.raises(PolicyError, match="evict chose a key that is protected"):
        assert 0 in policy


def test_nothing_is_wrong_where_fewer_may_go() -> None:
    policy = watched(Theirs)
    assert policy.evict(3, {1}) == []
    assert policy.evict(0) == []
    assert policy.evict(2, {1}) == [0, 2]
    assert 1 in policy
    assert len(policy) == 1


def test_a_plan_reaches_who_can_use_it() -> None:
    kind: type[SupervisedPlanner[Hashable]] = type(
        "Planned", (SupervisedPlanner,), {"theirs": BatchPlanPolicy, "name": "m:P"}
    )
    assert not isinstance(watched(Theirs), SupportsPlan)
    assert issubclass(kind, SupportsPlan)
    policy = kind(2)
    policy.plan(["a", "b", "a"])
    policy.insert("a")
    policy.insert("b")
    assert policy.evict(1) == ["b"]


class SupervisedLRU(SupervisedPolicy[Hashable]):
    theirs = LRUPolicy
    name = "tiers.eviction.lru:LRUPolicy"


class TestSupervised(EvictionContract):
    def make(self, capacity: int = 6) -> EvictionPolicy[Hashable]:
        return SupervisedLRU(capacity)
