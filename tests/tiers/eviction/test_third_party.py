"""A class of somebody else's, in a file that we do not know."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload.config import load_config
from tests.contracts.eviction import count_hits
from tiers.block import BlockKey, ExpertKey, KVBlockKey, PrefixBlockKey
from tiers.errors import InvalidOptionError
from tiers.eviction.lru import LRUPolicy
from tiers.eviction.registry import POLICIES, find_policy, make_policy

MINE = """
import random
from collections import OrderedDict

class Mine:
    '''LRU in a few lines, without knowing of EvictionPolicy.'''
    def __init__(self, capacity):
        self.capacity, self.keys = capacity, OrderedDict()
    def insert(self, key, cost=1.0):
        self.keys[key] = None
    def touch(self, key):
        self.keys.move_to_end(key)
    def remove(self, key):
        del self.keys[key]
    def evict(self, n, protected=()):
        victims = [key for key in self.keys if key not in protected][:n]
        if len(victims) < n:
            return []
        for key in victims:
            del self.keys[key]
        return victims
    def __contains__(self, key):
        return key in self.keys
    def __len__(self):
        return len(self.keys)

class Half:
    def insert(self, key, cost=1.0): ...
    def touch(self, key): ...

class Sized(Mine):
    def __init__(self, capacity, ways):
        super().__init__(capacity)

class Careless(Mine):
    def evict(self, n, protected=()):
        return super().evict(n)

class Newest(Mine):
    def evict(self, n, protected=()):
        return [self.keys.popitem()[0] for _ in range(n)]

class Keeping(Mine):
    def evict(self, n, protected=()):
        return [key for key in self.keys if key not in protected][:n]

class Stubborn(Mine):
    def evict(self, n, protected=()):
        return []

class Forgetful(Mine):
    def evict(self, n, protected=()):
        return self.keys.no_such(
            n)

class Rolling(Mine):
    def evict(self, n, protected=()):
        rest = [key for key in self.keys if key not in protected]
        random.shuffle(rest)
        for key in rest[:n]:
            del self.keys[key]
        return rest[:n]

class OfExperts(Mine):
    def insert(self, key, cost=1.0):
        self.keys[key] = key.expert

class OfBlocks(Mine):
    def insert(self, key, cost=1.0):
        self.keys[key] = key.sequence

class Unpacking(Mine):
    def insert(self, key, cost=1.0):
        sequence, layer, block = key
        self.keys[key] = block

NUMBER = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "a_policy_of_mine.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "a_broken_policy.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield "a_policy_of_mine"
    sys.modules.pop("a_policy_of_mine", None)


def test_a_class_with_the_methods_is_a_policy(module: str) -> None:
    policy = make_policy(f"{module}:Mine", 3)  # type: ignore[var-annotated]  # of any keys
    lru: LRUPolicy[object] = LRUPolicy(3)
    trace = [1, 2, 3, 1, 4, 1, 2, 5, 1]
    assert count_hits(policy, trace) == count_hits(lru, trace) > 0
    policy.forecast(0, [])
    policy.evict(1)
    policy.insert_ahead(9)
    assert 9 in policy


@pytest.mark.parametrize("name", ["OfExperts", "OfBlocks"])
def test_a_policy_may_be_made_for_one_kind_of_blocks(module: str, name: str) -> None:
    assert find_policy(f"{module}:{name}").__name__ == name


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("OfExperts", PrefixBlockKey, "insert raised AttributeError: .*'expert' in a_policy_of_mine.py:66"),
        ("OfBlocks", ExpertKey, "insert raised AttributeError: .*'sequence' in a_policy_of_mine.py:70"),
        ("Unpacking", PrefixBlockKey, "insert raised TypeError: .* in a_policy_of_mine.py:74"),
        ("Unpacking", KVBlockKey, None),
        ("OfBlocks", PrefixBlockKey, None),
    ],
)
def test_it_is_tried_with_the_keys_that_it_will_see(
    module: str, name: str, keys: type[BlockKey], message: str | None
) -> None:
    find_policy(f"{module}:{name}")  # good for something
    if message is None:
        find_policy(f"{module}:{name}", keys)
        return
    with pytest.raises(InvalidOptionError, match=f"'a_policy_of_mine:{name}' is no eviction policy: {message}"):
        find_policy(f"{module}:{name}", keys)


def test_a_run_has_two_kinds_of_keys(module: str) -> None:
    for key, wrong in (("policy", "OfBlocks"), ("kv_policy", "OfExperts")):
        with pytest.raises(InvalidOptionError, match=r"insert raised AttributeError: .* in a_policy_of_mine.py"):
            load_config({key: f"{module}:{wrong}"})


@pytest.mark.parametrize("policy", list(dict.fromkeys(POLICIES.values())))
def test_policies_that_ship_would_be_taken_from_others(policy: type[object]) -> None:
    assert find_policy(f"{policy.__module__}:{policy.__name__}") is policy


def test_a_class_of_an_installed_module() -> None:
    assert find_policy("tiers.eviction.lru:LRUPolicy") is LRUPolicy


def test_a_run_takes_its_name(module: str) -> None:
    assert load_config({"policy": f"{module}:Mine"}).policy == f"{module}:Mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a_policy_of_mine:Other", "the module has no class 'Other'"),
        ("a_policy_of_mine:Min", "no class 'Min'; did you mean 'Mine'?"),
        ("a_policy_of_mine:NUMBER", "the module has no class 'NUMBER'"),
        ("a_policy_of_mine:Half", "is no eviction policy: it has no remove, evict, __contains__, __len__"),
        ("tiers.eviction.base:EvictionPolicy", "is no eviction policy: it has no __contains__, __len__, evict, insert"),
        ("a_policy_of_mine:Sized", r"'ways'; it must be made with the number of slots alone"),
        ("a_policy_of_mine:Careless", "evict chose a key that is protected; it must choose another one"),
        ("a_policy_of_mine:Newest", "evict chose a key that is protected"),
        (
            "a_policy_of_mine:Keeping",
            "evict left it with 8 keys where there are 7; .* evict and remove must",
        ),
        ("a_policy_of_mine:Stubborn", r"evict\(1\) of 8 keys gave none; it must give 1"),
        ("a_policy_of_mine:Forgetful", "evict raised AttributeError: .* 'no_such' in a_policy_of_mine.py:53"),
        (
            "a_policy_of_mine:Rolling",
            "other keys when the same was done again; it must go by what it is told",
        ),
        ("no_such_module:Mine", "No module named 'no_such_module'; write the module's file into this directory"),
        ("a_broken_policy:Mine", "the module fails: ZeroDivisionError: division by zero"),
        (":Mine", "names no policy; write my_module:MyPolicy"),
        ("module:", "names no policy; write my_module:MyPolicy"),
    ],
)
def test_what_is_no_policy(module: str, name: str, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message) as error:
        find_policy(name)
    assert "\n" not in str(error.value)
