"""Eviction policies alone, and the manager that ships on a modelled machine: what one of their runs takes."""

import gc
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simulators.kv_replay import KVReplayResult, replay_requests
from simulators.kv_trace.base import KeyTable, KVTrace, Request
from simulators.kv_trace.formats import open_kv_trace
from simulators.link_costs import capacities_of, loads_of_decoding, routes_of
from simulators.model_costs import read_model_shape
from simulators.modelled_link import VirtualClock
from simulators.modelled_mover import EmptyTier, ModelledMover
from simulators.published import find_published, load_profile
from simulators.roofline_costs import RooflineCosts
from tiers.errors import TraceError
from tiers.eviction import registry
from tiers.eviction.registry import make_policy
from tiers.manager import Level, TieredMemoryManager
from tiers.pool import BlockPool

if TYPE_CHECKING:
    from tiers.eviction.base import EvictionPolicy

PROFILE, MODEL = "a100", "llama-3.1-8b"
_POLICY_FILES = str(Path(registry.__file__).parent / "*")


def time_policy(name: str, slots: int, references: Sequence[int]) -> tuple[float, int]:
    """Seconds and hits of a policy by itself, which is asked for one victim at a time."""
    policy: EvictionPolicy[int] = make_policy(name, slots)
    hits = 0
    start_s = time.perf_counter()
    for block in references:
        if block in policy:
            policy.touch(block)
            hits += 1
        else:
            if len(policy) == slots:
                policy.evict(1)
            policy.insert(block)
    return time.perf_counter() - start_s, hits


@dataclass(frozen=True, slots=True)
class Replay:
    """A trace in memory, to be replayed more than once on levels of so many slots, the nearest first."""

    block_tokens: int
    requests: list[Request]
    levels: dict[str, int]

    @classmethod
    def read(cls, path: Path, levels: dict[str, int]) -> "Replay":
        """Raises TraceError if the file is no trace, or has no references to blocks."""
        trace = open_kv_trace(path)
        replay = cls(trace.block_tokens, list(trace.requests), levels)
        if not replay.references:
            raise TraceError(f"{path}: has no references to blocks; name another trace")
        return replay

    @property
    def references(self) -> list[int]:
        """The blocks of all prompts, one request after the other."""
        return [block for request in self.requests for block in request.blocks]

    def time(self, policy: str) -> tuple[float, KVReplayResult]:
        """Seconds of one replay, with what computing costs and the making of the keys; raises BudgetError."""
        _, replay = self._prepare(policy)
        start_s = time.perf_counter()
        result = replay(KeyTable())
        return time.perf_counter() - start_s, result

    def nbytes_per_block(self, policy: str) -> tuple[float, float]:
        """Bytes that manager and policies have by the end for each block that any level holds; the policies' part.

        Without keys. In the midst of traffic: there are ghosts, and hash tables are as full as they happen to be.
        """
        table = KeyTable()
        for request in self.requests:
            table.keys(request.blocks)
        gc.collect()
        tracemalloc.start()
        try:
            manager, replay = self._prepare(policy)
            replay(table)
            gc.collect()
            nbytes, _ = tracemalloc.get_traced_memory()
            of_policies = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, _POLICY_FILES)])
        finally:
            tracemalloc.stop()
        num_live = len({key for level in manager.levels for key in level.slots})
        return nbytes / num_live, sum(trace.size for trace in of_policies.traces) / num_live

    def _prepare(self, policy: str) -> tuple[TieredMemoryManager, Callable[[KeyTable], KVReplayResult]]:
        """A manager that holds nothing yet, and what replays the trace through it."""
        profile, shape = load_profile(PROFILE), read_model_shape(find_published("models", MODEL))
        routes, capacities = routes_of(profile, tuple(self.levels)), capacities_of(profile)
        mover = ModelledMover(VirtualClock(), routes, capacities, decoding=loads_of_decoding(profile))
        block_nbytes = self.block_tokens * shape.kv_nbytes_per_token
        levels = [
            Level(EmptyTier(name, n, block_nbytes), BlockPool(n), make_policy(policy, n))
            for name, n in self.levels.items()
        ]
        manager = TieredMemoryManager(mover, levels, is_cache=True)
        trace = KVTrace("in memory", self.block_tokens, iter(self.requests))
        costs = RooflineCosts(shape, profile)
        return manager, lambda table: replay_requests(trace, manager, mover, costs, table=table)
