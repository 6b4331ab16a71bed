"""What every eviction policy owes its caller, whatever its order."""

import tracemalloc
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Iterator
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tiers.block import ExpertKey, KVBlockKey, WeightGroupKey
from tiers.eviction.base import EvictionPolicy

CAPACITY = 6
KEYS = range(2 * CAPACITY)
SOME_KEY = st.sampled_from(KEYS)
SOME_KEYS = st.sets(SOME_KEY)

Policy = EvictionPolicy[Hashable]


def access(policy: Policy, key: Hashable) -> bool:
    """What a manager does with one access: a touch on a hit, else room and an insert. Returns whether it was a hit."""
    if key in policy:
        policy.touch(key)
        return True
    if len(policy) == policy.capacity:
        policy.announce([key])
        policy.evict(1)
    policy.insert(key)
    return False


def count_hits(policy: Policy, trace: Iterable[Hashable]) -> int:
    """How many accesses of a trace find their key resident."""
    return sum(access(policy, key) for key in trace)


def drain(policy: Policy) -> list[Hashable]:
    """Every key that is left, in the order of eviction."""
    return policy.evict(len(policy))


class ProbedSet(Collection[Hashable]):
    """A set that counts how often it is asked for a key."""

    def __init__(self, keys: Iterable[Hashable]) -> None:
        self.keys = frozenset(keys)
        self.probes = 0

    def __contains__(self, key: object) -> bool:
        self.probes += 1
        return key in self.keys

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class EvictionMachine(RuleBasedStateMachine):
    """Compares a policy with a plain set, and with a twin that is spared failing calls and evicts one key at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = self.make()
        self.twin = self.make()
        self.resident: set[int] = set()

    def make(self) -> Policy:
        raise NotImplementedError

    def evict_from_twin(self, n: int, protected: Collection[int]) -> list[Hashable]:
        return [victim for _ in range(n) for victim in self.twin.evict(1, protected)]

    @rule(key=SOME_KEY, cost=st.sampled_from([0.0, 0.5, 1.0, 4.0]))
    def use(self, key: int, cost: float) -> None:
        if key in self.resident:
            self.policy.touch(key)
            self.twin.touch(key)
            return
        if len(self.resident) == CAPACITY:
            self.policy.announce([key])
            self.twin.announce([key])
            self.evict(1, set())
        self.policy.insert(key, cost)
        self.twin.insert(key, cost)
        self.resident.add(key)

    @rule(keys=st.lists(SOME_KEY, max_size=3, unique=True))
    def insert_all(self, keys: list[int]) -> None:
        new = [key for key in keys if key not in self.resident][: CAPACITY - len(self.resident)]
        self.policy.insert_all(new, 2.0)
        for key in new:
            self.twin.insert(key, 2.0)
        self.resident.update(new)

    @rule(n=st.integers(0, CAPACITY + 1), protected=SOME_KEYS)
    def evict(self, n: int, protected: set[int]) -> None:
        victims = self.policy.evict(n, protected)
        if n > len(self.resident - protected):
            assert victims == []
            return
        assert len(victims) == len(set(victims)) == n
        assert self.resident - protected >= set(victims)
        assert victims == self.evict_from_twin(n, protected)
        self.resident.difference_update(victims)

    @precondition(lambda self: self.resident)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.resident)))
        self.policy.remove(key)
        self.twin.remove(key)
        self.resident.remove(key)

    @rule(key=SOME_KEY)
    def misuse(self, key: int) -> None:
        wrong_calls = [self.policy.insert] if key in self.resident else [self.policy.touch, self.policy.remove]
        for call in wrong_calls:
            with pytest.raises(KeyError):
                call(key)
        if key in self.resident:
            with pytest.raises(KeyError):
                self.policy.insert_all([key])

    @invariant()
    def same_keys(self) -> None:
        assert len(self.policy) == len(self.twin) == len(self.resident)
        assert {key for key in KEYS if key in self.policy} == self.resident

    def teardown(self) -> None:
        assert drain(self.policy) == self.evict_from_twin(len(self.resident), ())


class EvictionContract(ABC):
    """Inherit, name the class ``Test...`` and supply ``make``."""

    nbytes_per_key = 300
    """Bookkeeping of a resident key, ghosts included, the keys themselves excluded."""
    num_keys = 5000
    """How many resident keys it is measured with."""
    num_histories = 60
    """How many random histories it is tried with."""

    @abstractmethod
    def make(self, capacity: int) -> Policy:
        """A new, empty policy."""

    def filled(self, capacity: int) -> Policy:
        """A full policy of the keys 0, 1, ..., inserted in this order."""
        policy = self.make(capacity)
        for key in range(capacity):
            policy.insert(key)
        return policy

    def test_agrees_with_a_set_and_with_one_eviction_at_a_time(self) -> None:
        """Whatever the history: residency, all or nothing, protection, batches, and no trace of a refused call."""
        contract = self

        class Machine(EvictionMachine):
            def make(self) -> Policy:
                return contract.make(CAPACITY)

        run_state_machine_as_test(
            Machine, settings=settings(max_examples=self.num_histories, stateful_step_count=40, deadline=None)
        )

    def test_starts_empty(self) -> None:
        policy = self.make(4)
        assert len(policy) == 0
        assert 0 not in policy
        assert policy.evict(0) == []
        assert policy.evict(1) == []

    @pytest.mark.parametrize("capacity", [0, -1])
    def test_refuses_a_capacity_below_one(self, capacity: int) -> None:
        with pytest.raises(ValueError, match=f"capacity must be at least 1, got {capacity}"):
            self.make(capacity)

    def test_refuses_to_evict_a_negative_number(self) -> None:
        policy = self.filled(4)
        with pytest.raises(ValueError, match="-1"):
            policy.evict(-1)
        assert len(policy) == 4

    def test_works_with_a_single_slot(self) -> None:
        policy = self.make(1)
        assert count_hits(policy, [0, 0, 1, 0, 1, 1, 2]) == 2
        assert drain(policy) == [2]

    def test_evicts_everything_when_asked(self) -> None:
        policy = self.filled(4)
        assert set(drain(policy)) == {0, 1, 2, 3}
        assert len(policy) == 0

    def test_protects_whatever_the_collection(self) -> None:
        """Lists, tuples, sets and views protect alike; keys that are not resident protect nothing."""
        for protected in ([0, 2, 9], (0, 2, 9), {0, 2, 9}, frozenset({0, 2, 9}), {0: "a", 2: "b", 9: "c"}.keys()):
            policy = self.filled(4)
            assert policy.evict(3, protected) == []
            assert set(policy.evict(2, protected)) == {1, 3}
            assert set(drain(policy)) == {0, 2}

    def test_forgets_what_was_removed(self) -> None:
        """A key that was removed and comes back is as new as any other."""
        policy, fresh = self.filled(4), self.filled(4)
        policy.touch(2)
        policy.touch(2)
        for key in range(4):
            policy.remove(key)
        for key in range(4):
            policy.insert(key)
        assert drain(policy) == drain(fresh)

    def test_takes_back_what_was_evicted(self) -> None:
        policy = self.filled(4)
        for victim in drain(policy):
            policy.insert(victim)
        assert set(drain(policy)) == {0, 1, 2, 3}

    def test_names_any_kind_of_block(self) -> None:
        """Keys are compared by value, and kinds of keys may be mixed."""
        policy = self.make(3)
        for key in (KVBlockKey(1, 2, 3), ExpertKey(2, 3, "int4"), WeightGroupKey("layer.0")):
            policy.insert(key)
        policy.touch(KVBlockKey(1, 2, 3))
        assert policy.evict(1, [KVBlockKey(1, 2, 3), ExpertKey(2, 3, "int4")]) == [WeightGroupKey("layer.0")]

    def test_looks_no_further_than_it_must(self) -> None:
        """The work of an eviction follows from its size and from the protected keys passed, not from the tier."""
        policy = self.filled(1000)
        protected = ProbedSet(range(5)) if 0 in self.filled(1000).evict(1) else ProbedSet(range(995, 1000))
        assert len(policy.evict(3, protected)) == 3
        assert protected.probes <= 3 * (3 + 5) + 2, "a look beforehand, at most one more in a part, one to choose"

    def test_is_small(self) -> None:
        """After much traffic.

        The capacity is one at which Python's hash tables are neither at their fullest nor at their emptiest.
        """
        capacity, random = self.num_keys, Random(7)
        keys = range(1000, 1000 + 4 * capacity)
        trace = [keys[min(int(random.expovariate(1 / capacity)), len(keys) - 1)] for _ in range(6 * capacity)]
        tracemalloc.start()
        try:
            policy = self.make(capacity)
            for step, key in enumerate(trace):
                access(policy, key)
                if step % 5 == 0:
                    policy.remove(key)
            nbytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert nbytes <= self.nbytes_per_key * len(policy)
