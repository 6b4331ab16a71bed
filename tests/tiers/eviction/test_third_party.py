"""A class of somebody else's, in a file that we do not know."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload.config import load_config
from tests.contracts.eviction import count_hits
from tiers.errors import InvalidOptionError
from tiers.eviction.lru import LRUPolicy
from tiers.eviction.registry import find_policy, make_policy

MINE = """
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


def test_a_class_of_an_installed_module() -> None:
    assert find_policy("tiers.eviction.lru:LRUPolicy") is LRUPolicy


def test_a_run_takes_its_name(module: str) -> None:
    assert load_config({"policy": f"{module}:Mine"}).policy == f"{module}:Mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a_policy_of_mine:Other", "the module has no class 'Other'"),
        ("a_policy_of_mine:NUMBER", "the module has no class 'NUMBER'"),
        ("a_policy_of_mine:Half", "is no eviction policy: it has no remove, evict, __contains__, __len__"),
        ("tiers.eviction.base:EvictionPolicy", "is no eviction policy: it has no __contains__, __len__, evict, insert"),
        ("no_such_module:Mine", "No module named 'no_such_module'; write the module's file into this directory"),
        ("a_broken_policy:Mine", "the module fails: ZeroDivisionError: division by zero"),
        (":Mine", "names no policy; write my_module:MyPolicy"),
        ("module:", "names no policy; write my_module:MyPolicy"),
    ],
)
def test_what_is_no_policy(module: str, name: str, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        find_policy(name)
