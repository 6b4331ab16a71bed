"""Any history of calls to a manager, and the naive implementation that says what must come of it: a dict."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.tiers.house import House
from tests.tiers.kit import content, key
from tiers.block import BlockKey
from tiers.errors import TierFullError, WorldError
from tiers.eviction.base import Expected
from tiers.manager import LookupResult

LEVELS = {"device": 3, "host": 3, "nvme": 4}
NUM_BACKED = 3
MAX_BLOCKS = 10


class ManagerMachine(RuleBasedStateMachine):
    """Three levels over a read-only tier. Blocks are numbers; those below ``NUM_BACKED`` are read only."""

    allowed: tuple[type[WorldError], ...] = (TierFullError,)
    """What a call may raise that asks for room or for bytes; it then has changed nothing."""

    def __init__(self, directory: Path, policy: str) -> None:
        super().__init__()
        self.house = self.make_house(directory, policy)
        self.manager = self.house.manager
        self.numbers = itertools.count(NUM_BACKED)
        self.seeds = itertools.count(1000)
        self.contents = {index: content(index) for index in range(NUM_BACKED)}
        self.owners = dict.fromkeys(self.contents, 1)
        self.open: dict[int, int] = {}
        self.prepared: list[list[int]] = []
        self.held: list[list[int]] = []

    def make_house(self, directory: Path, policy: str) -> House:
        return House(directory, LEVELS, policy=policy, num_backed=NUM_BACKED)

    # What the rules choose from.

    @property
    def closed(self) -> list[int]:
        return [index for index in self.contents if index not in self.open]

    @property
    def idle(self) -> list[int]:
        """Blocks that nobody is reading, as far as we know."""
        busy = set(itertools.chain(*self.prepared, *self.held))
        return [index for index in self.closed if index not in busy]

    def choose(self, data: st.DataObject, indices: Sequence[int], most: int = 3, *, unique: bool = False) -> list[int]:
        chosen = st.lists(st.sampled_from(indices), min_size=1, max_size=most, unique=unique)
        return data.draw(chosen)

    def fill(self, index: int, slot: int) -> None:
        self.contents[index] = content(next(self.seeds))
        self.house.write(slot, self.contents[index])

    # Rules.

    @precondition(lambda self: len(self.contents) <= NUM_BACKED + MAX_BLOCKS)
    @rule(count=st.integers(1, 3), is_complete=st.booleans(), prefer=st.none() | st.integers(0, 2))
    def store(self, count: int, is_complete: bool, prefer: int | None) -> None:
        indices = list(itertools.islice(self.numbers, count))
        try:
            slots = self.manager.prepare_store(_keys(indices), prefer)
        except self.allowed:
            return
        for index, slot in zip(indices, slots, strict=True):
            self.fill(index, slot)
            self.owners[index] = 1
            self.open[index] = slot
        if is_complete:
            self.complete(indices)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def complete_some(self, data: st.DataObject) -> None:
        indices = self.choose(data, sorted(self.open), unique=True)
        for index in indices:
            self.fill(index, self.open[index])
        self.complete(indices)

    def complete(self, indices: Iterable[int]) -> None:
        self.manager.complete_store(_keys(indices))
        for index in indices:
            del self.open[index]

    @rule(data=st.data())
    def prepare_load(self, data: st.DataObject) -> None:
        indices = self.choose(data, self.closed)
        before = self.house.plan_of(self.contents)
        try:
            self.manager.prepare_load(_keys(indices))
        except self.allowed as error:
            if len(indices) == 1 and isinstance(error, TierFullError):
                assert not self.can_make_room(besides=indices[0]), before
            return
        self.prepared.append(indices)

    @precondition(lambda self: self.prepared)
    @rule(data=st.data())
    def complete_load(self, data: st.DataObject) -> None:
        indices = self.prepared.pop(data.draw(st.integers(0, len(self.prepared) - 1)))
        try:
            slots = self.manager.complete_load(_keys(indices))
        except self.allowed:
            return
        self.held.append(indices)
        assert [bytes(self.house.device.view(slot)) for slot in slots] == [self.contents[index] for index in indices]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.manager.release(_keys(self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))))

    @precondition(lambda self: self.prepared)
    @rule(data=st.data())
    def release_before_it_came(self, data: st.DataObject) -> None:
        self.manager.release(_keys(self.prepared.pop(data.draw(st.integers(0, len(self.prepared) - 1)))))

    @rule(data=st.data(), is_guess=st.booleans())
    def prefetch(self, data: st.DataObject, is_guess: bool) -> None:
        keys = _keys(self.choose(data, self.closed, 4))
        accepted = self.manager.prefetch(keys, is_guess=is_guess)
        for accepted_key in accepted:
            assert accepted_key in keys
            assert self.manager.lookup(accepted_key) is not LookupResult.MISS

    @rule(data=st.data(), steps=st.integers(0, 3), probability=st.floats(0.0, 1.0))
    def forecast(self, data: st.DataObject, steps: int, probability: float) -> None:
        """Whatever is expected, and whether it is there or was ever heard of."""
        indices = data.draw(st.lists(st.integers(0, NUM_BACKED + MAX_BLOCKS), max_size=4))
        self.manager.forecast(0, [(key(index), Expected(probability, steps)) for index in indices])

    @rule(data=st.data())
    def cancel_prefetch(self, data: st.DataObject) -> None:
        self.manager.cancel_prefetch(_keys(self.choose(data, self.closed, 6)))

    @precondition(lambda self: any(index >= NUM_BACKED for index in self.idle))
    @rule(data=st.data())
    def reopen(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from([index for index in self.idle if index >= NUM_BACKED]))
        try:
            slot = self.manager.reopen(key(index))
        except self.allowed:
            return
        assert self.house.device.view(slot) == self.contents[index]
        self.open[index] = slot
        self.fill(index, slot)

    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        (index,) = self.choose(data, sorted(self.contents), 1)
        self.manager.share([key(index)])
        self.owners[index] += 1

    @precondition(lambda self: any(index >= NUM_BACKED for index in [*self.idle, *self.open]))
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        candidates = [index for index in [*self.idle, *self.open] if index >= NUM_BACKED]
        indices = self.choose(data, candidates, unique=True)
        self.manager.discard(_keys(indices))
        for index in indices:
            self.disown(index)

    def disown(self, index: int) -> None:
        self.owners[index] -= 1
        if not self.owners[index]:
            del self.owners[index], self.contents[index]
            self.open.pop(index, None)

    # What always holds.

    @invariant()
    def the_books_add_up(self) -> None:
        self.manager.check()

    @invariant()
    def nobody_is_pinned_without_a_reason(self) -> None:
        uses = Counter(itertools.chain(*self.prepared, *self.held))
        for index in self.contents:
            books, name = self.manager._placement, key(index)
            pins = uses[index] + (name in books.claims) + (name in books.opened)
            assert books.pinned.get(name, 0) == pins

    @invariant()
    def everybody_is_somewhere(self) -> None:
        for index in self.contents:
            assert self.manager.lookup(key(index)) is not LookupResult.MISS
            assert self.manager.is_shared(key(index)) == (self.owners[index] > 1)
        for index in itertools.chain(*self.held, self.open):
            assert self.manager.lookup(key(index)) is LookupResult.HIT
        assert self.manager.lookup(key(999)) is LookupResult.MISS
        held = {name for slots in self.manager._placement.copies() for name in slots}
        assert held == set(_keys(self.contents))

    @invariant()
    def what_is_held_does_not_change(self) -> None:
        for index in itertools.chain(*self.held, self.open):
            slot = self.manager.levels[0].slots[key(index)]
            assert self.house.device.view(slot) == self.contents[index]

    def can_make_room(self, besides: int) -> bool:
        """Whether a block could leave the device for ``besides``: it has a copy below, or there is room for one."""
        device, *lower = range(len(LEVELS))
        copies = self.manager._placement.copies()
        others = set(itertools.chain(*copies)).difference(self.manager._placement.pinned, [key(besides)])
        num_copies = Counter(itertools.chain(*copies))
        can_drop = [
            any(name in copies[level] and num_copies[name] > 1 for name in others) for level in range(len(LEVELS))
        ]
        if self.house.levels[device].pool.num_free or can_drop[device]:
            return True
        can_leave = not others.isdisjoint(copies[device])
        return can_leave and any(self.house.levels[level].pool.num_free or can_drop[level] for level in lower)

    # The end: everything can be read and given back.

    def teardown(self) -> None:
        try:
            self.give_everything_back()
        finally:
            self.house.close()

    def give_everything_back(self) -> None:
        for indices in [*self.prepared, *self.held]:
            self.manager.release(_keys(indices))
        self.complete(list(self.open))
        self.manager.cancel_prefetch(_keys(self.contents))
        for index in self.contents:
            with suppress(*self.allowed):
                assert self.house.open(index) == [self.contents[index]]
                self.house.release(index)
        self.manager.check()
        for index, owners in self.owners.items():
            for _ in range(owners):
                self.manager.discard([key(index)])
        self.manager.check()
        assert not any(self.manager._placement.copies())
        self.wait_for_stragglers()
        assert self.house.free_slots() == list(LEVELS.values())

    def wait_for_stragglers(self) -> None:
        """A drive that hangs may still write: until it has answered, its target slots are out of use."""


def _keys(indices: Iterable[int]) -> list[BlockKey]:
    return [key(index) for index in indices]
