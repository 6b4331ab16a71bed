from pathlib import Path

from simulators.kv_trace.base import KeyTable, KVTrace, Request
from simulators.kv_trace.formats import open_kv_trace
from simulators.kv_trace.statistics import kv_trace_statistics
from tiers.block import PLACE_SHIFT, PrefixBlockKey
from tiers.eviction.prefix_depth import depth_of


def test_the_sample() -> None:
    statistics = kv_trace_statistics(open_kv_trace(Path("mooncake_conversation")))
    assert (statistics.requests, statistics.accesses, statistics.unique_blocks) == (3000, 80_619, 55_287)
    assert statistics.ideal_hit_ratio == 1 - 55_287 / 80_619
    assert statistics.duration_s == 987


def test_a_cache_of_some_slots_and_an_empty_trace() -> None:
    requests = [Request(0.0, 2, 1, [1, 2]), Request(1.0, 3, 1, [1, 2, 3])]
    assert kv_trace_statistics(KVTrace("any", 1, iter(requests)), slots=1).ideal_hit_ratio == 0.0
    assert kv_trace_statistics(KVTrace("any", 1, iter(requests)), slots=2).ideal_hit_ratio == 2 / 5
    assert kv_trace_statistics(KVTrace("any", 1, iter([]))).ideal_hit_ratio == 0.0


def test_a_block_has_one_key() -> None:
    table = KeyTable()
    first = table.keys([7, 8])
    again = table.keys([7, 9])
    assert again[0] is first[0]
    assert len(table) == 3
    repeated = table.keys([4, 5, 4])
    assert repeated[2] is repeated[0], "where it stood first"
    keys = [*first, again[1], *repeated[:2]]
    assert [depth_of(key) for key in keys] == [0, 1, 1, 0, 1]
    assert len(set(keys)) == 5


def test_a_key_has_what_policies_look_at() -> None:
    key = PrefixBlockKey(3 << PLACE_SHIFT | 70_000)
    assert (key.sequence, key.layer, key.block) == (70_000, 0, 3)
    assert repr(key) == "PrefixBlockKey(3 << 32 | 70000)"
