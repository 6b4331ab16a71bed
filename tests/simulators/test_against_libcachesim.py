"""Hits of our policies against those of libCacheSim, where that is installed: ``pip install libcachesim`` (GPL).

They are the same to the last hit, but for S3-FIFO. Its paper's algorithm 1 makes room first and then looks whether the
new key is a ghost, and sends all newcomers through the small queue; ours does so. libCacheSim looks at the ghosts
first, and lets what does not fit the small queue into the main one until the cache is full for the first time. A class
below does as libCacheSim does; then S3-FIFO is the same as well.

On a trace in which no key that is used twice ever has to leave, SIEVE and LFU hit the same: so it is with Mooncake's.

``pytest -m slow -s`` on this file prints the table.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from simulators.belady import ideal_hit_ratio
from simulators.kv_trace.formats import open_kv_trace
from simulators.kv_trace.generate import ZipfWorkload
from tests.contracts.eviction import count_hits
from tiers.eviction.arc import ARCPolicy
from tiers.eviction.batch_plan import BatchPlanPolicy
from tiers.eviction.fifo import FIFOPolicy
from tiers.eviction.lfu import LFUPolicy
from tiers.eviction.lru import LRUPolicy
from tiers.eviction.s3fifo import S3FIFOPolicy
from tiers.eviction.sieve import SievePolicy

libcachesim: Any = pytest.importorskip("libcachesim")

NEVER = 1 << 62


class WellInformedS3FIFO(S3FIFOPolicy[int]):
    """Knows which key is missing when it makes room, and fills the main queue at once while nothing has to leave."""

    is_recalled = has_evicted = False

    def announce(self, keys: Sequence[int]) -> None:
        (key,) = keys
        self.is_recalled = key in self._ghosts
        if self.is_recalled:
            self._ghosts.remove(key)

    def insert(self, key: int, cost: float = 1.0) -> None:
        super().insert(key, cost)
        if self.is_recalled or (not self.has_evicted and len(self._small) > self._small_slots):
            self._small.remove(key)
            self._main[key] = 0

    def evict(self, n: int, protected: Iterable[int] = ()) -> list[int]:
        self.has_evicted = True
        return super().evict(n, list(protected))


def their_hits(name: str, capacity: int, trace: Sequence[int]) -> int:
    cache = getattr(libcachesim, name)(capacity)
    later: dict[int, int] = {}
    next_use = [NEVER] * len(trace)
    for place in range(len(trace) - 1, -1, -1):
        next_use[place] = later.get(trace[place], NEVER)
        later[trace[place]] = place
    request = libcachesim.Request()
    request.obj_size = 1
    hits = 0
    for place, key in enumerate(trace):
        request.obj_id, request.clock_time, request.next_access_vtime = key + 1, place, next_use[place]
        hits += cache.get(request)
    return hits


@pytest.fixture(scope="module", params=["mooncake", "zipf"])
def trace(request: pytest.FixtureRequest) -> list[int]:
    if request.param == "mooncake":
        requests = open_kv_trace(Path("mooncake_conversation")).requests
    else:
        requests = ZipfWorkload(num_requests=40_000, num_documents=5000, document_blocks=1, skew=0.9).trace().requests
    return [block for one in requests for block in one.blocks]


CAPACITIES = (100, 500, 2000, 8000)
PAIRS: list[tuple[str, Any]] = [
    ("LRU", LRUPolicy),
    ("FIFO", FIFOPolicy),
    ("LFU", LFUPolicy),
    ("Sieve", SievePolicy),
    ("ARC", ARCPolicy),
    ("S3FIFO", WellInformedS3FIFO),
]


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_the_same_hits(trace: list[int], theirs: str, ours: Any, capacity: int) -> None:
    assert count_hits(ours(capacity), trace) == their_hits(theirs, capacity, trace)


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_the_same_bound(trace: list[int], capacity: int) -> None:
    belady = their_hits("Belady", capacity, trace)
    assert round(ideal_hit_ratio(trace, capacity) * len(trace)) == belady
    planned: BatchPlanPolicy[Any] = BatchPlanPolicy(capacity)
    planned.plan(trace)
    assert count_hits(planned, trace) == belady


@pytest.mark.slow
def test_table_of_hits(capsys: pytest.CaptureFixture[str]) -> None:
    """Of what ships, on Mooncake's trace: policy, slots, our hits, theirs."""
    trace = [block for one in open_kv_trace(Path("mooncake_conversation")).requests for block in one.blocks]
    lines = []
    for name, ours in [*PAIRS[:-1], ("S3FIFO", S3FIFOPolicy)]:
        for capacity in (500, 2000, 5000, 10_000, 20_000, 50_000):
            hits, theirs = count_hits(ours(capacity), trace), their_hits(name, capacity, trace)
            lines.append(f"{name:8} {capacity:8,} {hits:8,} {theirs:8,} {hits / max(1, theirs) - 1:+8.2%}")
            assert hits == theirs or name == "S3FIFO"
    with capsys.disabled():
        print("", "policy      slots     ours libcachesim", *lines, sep="\n")  # noqa: T201 - what it is for
