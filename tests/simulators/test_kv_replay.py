"""The manager that ships, in virtual time, over requests."""

import random
from itertools import islice
from pathlib import Path

import pytest

from prefetch.load_gate import Gate
from simulators.belady import ideal_hit_ratio
from simulators.kv_replay import KVReplayResult, replay_requests
from simulators.kv_trace.base import KeyTable, KVTrace, Request
from simulators.kv_trace.formats import open_kv_trace
from simulators.modelled_link import VirtualClock
from simulators.modelled_mover import EmptyTier, ModelledMover, Route
from tests.contracts.eviction import count_hits
from tiers.errors import BudgetError
from tiers.eviction.batch_plan import BatchPlanPolicy
from tiers.eviction.registry import make_policy
from tiers.manager import Level, TieredMemoryManager
from tiers.pool import BlockPool

NAMES = ("device", "host", "nvme")


def make(policy: str, *num_slots: int) -> tuple[TieredMemoryManager, ModelledMover]:
    """Levels of blocks of one byte; a second for each block that moves."""
    names = NAMES[: len(num_slots)]
    routes = {f"{a}->{b}": Route(lambda blocks, _: float(blocks), f"{a}->{b}") for a in names for b in names if a != b}
    mover = ModelledMover(VirtualClock(), routes)
    levels = [
        Level(EmptyTier(name, n, 1), BlockPool(n), make_policy(policy, n))
        for name, n in zip(names, num_slots, strict=True)
    ]
    return TieredMemoryManager(mover, levels, is_cache=True), mover


def requests_of(*blocks: list[int]) -> KVTrace:
    return KVTrace("test", 1, iter([Request(0.0, len(some), 10, some) for some in blocks]))


def sample(num_requests: int) -> KVTrace:
    trace = open_kv_trace(Path("mooncake_conversation"))
    return KVTrace(trace.format, trace.block_tokens, islice(trace.requests, num_requests))


class OneSecondAToken:
    waits_for_moves = False

    def prefill_s(self, new_tokens: int, context_tokens: int) -> float:
        return float(new_tokens)

    def decode_s(self, tokens: int, context_tokens: int) -> float:
        return float(tokens)

    def step_s(self, num_requests: int, context_tokens: float) -> float:
        return 1.0


class Noted(OneSecondAToken):
    """Keeps what was asked of it: tokens, and their context."""

    def __init__(self) -> None:
        self.prefilled: list[tuple[int, int]] = []
        self.decoded: list[tuple[int, int]] = []

    def prefill_s(self, new_tokens: int, context_tokens: int) -> float:
        self.prefilled.append((new_tokens, context_tokens))
        return super().prefill_s(new_tokens, context_tokens)

    def decode_s(self, tokens: int, context_tokens: int) -> float:
        self.decoded.append((tokens, context_tokens))
        return super().decode_s(tokens, context_tokens)


def test_three_requests() -> None:
    """The device holds three blocks, the host two. Of the first request's three one is forgotten."""
    manager, mover = make("lru", 3, 2)
    result = replay_requests(requests_of([1, 2, 3], [1, 2, 3], [1, 2, 4]), manager, mover, OneSecondAToken())
    # The blocks of the second request are all on the device; 4 of the third one takes the place of 3.
    assert (result.accesses, result.hits, result.device_hits, result.prefix_hits) == (9, 5, 5, 5)
    # The first token of an answer comes out of its prompt, of which the last token at least is computed.
    assert result.ttft_s == [3.0, 1.0, 1.0 + result.stall_s]
    assert result.compute_s == 3 + 9 + 1 + 9 + 1 + 9
    assert result.elapsed_s == result.compute_s + result.stall_s
    assert result.tokens_per_s == 30 / result.elapsed_s
    manager.check()


def test_loads_from_below_take_time() -> None:
    manager, mover = make("lru", 2, 8)
    result = replay_requests(requests_of([1, 2], [3, 4], [1, 2]), manager, mover, OneSecondAToken())
    assert (result.hits, result.device_hits) == (2, 0)
    assert result.link_nbytes == {"device->host": 4, "host->device": 2}
    # Both were copied to the host while the device was computing; to bring them back takes two seconds.
    assert result.ttft_s == [2.0, 2.0, 2.0 + 1.0]
    assert result.stall_s == 2.0


@pytest.mark.parametrize(
    ("tokens", "blocks", "prefilled"),
    [
        (12, [1, 2, 3], (4, 8)),
        (9, [1, 2, 3], (1, 8)),  # the last block is short
        (15, [1, 2, 3], (7, 8)),  # what comes behind the last block belongs to none
        (9, [3, 4, 2], (8, 1)),  # a short one is held, behind full ones that are not
        (8, [1, 2], (1, 7)),  # all of it is held: the last token is computed again
        (11, [1, 2], (3, 8)),
        (5, [], (5, 0)),
        (0, [], (0, 0)),
    ],
)
def test_what_no_block_brings_is_computed(tokens: int, blocks: list[int], prefilled: tuple[int, int]) -> None:
    """Blocks of four tokens, of which 1 and 2 are held."""
    manager, mover = make("lru", 9)
    costs = Noted()
    prompts = iter([Request(0.0, 8, 1, [1, 2]), Request(0.0, tokens, 3, blocks), Request(0.0, 0, 0, [])])
    replay_requests(KVTrace("test", 4, prompts), manager, mover, costs)
    assert costs.prefilled == [(8, 0), prefilled, (0, 0)]
    assert costs.decoded == [(0, 8), (2, tokens), (0, 0)]


def test_a_short_block_that_is_computed_again_is_short() -> None:
    """And its prompt needs no other token to be computed."""
    manager, mover = make("lru", 2, 8)
    costs = Noted()
    prompts = iter([Request(0.0, 6, 1, [1, 2]), Request(0.0, 8, 1, [3, 4]), Request(0.0, 6, 1, [1, 2])])
    replay_requests(KVTrace("test", 4, prompts), manager, mover, costs, gate=Gate.RECOMPUTE)
    assert costs.prefilled == [(6, 0), (8, 0), (6, 0), (0, 6)]


@pytest.mark.parametrize("policy", ["lru", "arc", "s3fifo"])
def test_counting_hits_alone_finds_what_a_replay_with_time_to_write_back_finds(policy: str) -> None:
    manager, mover = make(policy, 300, 400, 600)
    alone = replay_requests(sample(300), manager, mover)
    manager, mover = make(policy, 300, 400, 600)
    timed = replay_requests(sample(300), manager, mover, OneSecondAToken())
    assert alone.hits == pytest.approx(timed.hits, rel=0.005)
    assert (alone.compute_s, timed.accesses) == (0.0, alone.accesses)
    manager.check()


def test_a_gap_in_a_prefix() -> None:
    manager, mover = make("lru", 3)
    result = replay_requests(requests_of([1, 2, 3], [4], [1, 2, 3]), manager, mover)
    assert (result.hits, result.prefix_hits) == (2, 0)


def test_keys_are_kept_for_the_next_replay() -> None:
    table = KeyTable()
    replay_requests(requests_of([7, 8], [7, 9]), *make("lru", 3), table=table)
    assert len(table) == 3


@pytest.mark.parametrize("gate", Gate)
def test_each_request_uses_a_block_once_whether_it_is_loaded_or_computed_again(gate: Gate) -> None:
    manager, mover = make("batch_plan", 2, 8)
    requests = [[1, 2], [3, 4], [1, 2], [5, 6], [1, 2]]
    policy = manager.levels[0].policy
    assert isinstance(policy, BatchPlanPolicy)
    table = KeyTable()
    policy.plan(key for blocks in requests for key in table.keys(blocks))
    result = replay_requests(requests_of(*requests[:3]), manager, mover, OneSecondAToken(), gate=gate, table=table)
    assert (result.recomputed == 0) == (gate is Gate.LOAD)
    assert (result.hits, result.device_hits) == (2, 0)
    to_come = [len(policy._coming[key]) for key in table.keys([1, 2, 3, 4, 5, 6])]
    assert to_come == [1, 1, 0, 0, 1, 1]
    manager.check()


@pytest.mark.parametrize("policy", ["lru", "fifo", "arc", "s3fifo", "sieve", "prefix_depth", "gdsf", "two_queue"])
def test_no_policy_beats_belady_and_the_books_add_up(policy: str) -> None:
    manager, mover = make(policy, 500, 1500, 4000)
    result = replay_requests(sample(1000), manager, mover)
    accesses = [block for request in sample(1000).requests for block in request.blocks]
    assert result.accesses == len(accesses)
    assert 0 < result.prefix_hits <= result.hits <= ideal_hit_ratio(accesses, 6000) * len(accesses)
    assert result.device_hits < result.hits
    manager.check()


def test_with_room_for_all_everything_that_was_there_is_hit() -> None:
    manager, mover = make("lru", 300, 20_000)
    result = replay_requests(sample(300), manager, mover)
    accesses = [block for request in sample(300).requests for block in request.blocks]
    assert result.hits == len(accesses) - len(set(accesses))
    manager.check()


def test_one_level_hits_as_its_policy_alone() -> None:
    """But that a request has all of its blocks at once: no block of it makes room for another one of it."""
    manager, mover = make("lru", 3000)
    result = replay_requests(sample(1500), manager, mover)
    alone = count_hits(make_policy("lru", 3000), (b for request in sample(1500).requests for b in request.blocks))
    assert result.hits == pytest.approx(alone, rel=0.005)


def test_the_same_trace_gives_the_same_result() -> None:
    def run() -> KVReplayResult:
        manager, mover = make("w_tinylfu", 300, 400, 500)
        return replay_requests(sample(200), manager, mover, OneSecondAToken())

    assert run() == run()


def test_a_prompt_that_does_not_fit() -> None:
    manager, mover = make("lru", 2)
    with pytest.raises(
        BudgetError, match=r"request 2 has 3 blocks, level 'device' has 2 slots; give it at least 3 bytes"
    ):
        replay_requests(requests_of([1], [1, 2, 3]), manager, mover)


def test_nothing_to_replay() -> None:
    manager, mover = make("lru", 2)
    result = replay_requests(requests_of(), manager, mover)
    assert (result.hit_ratio, result.tokens_per_s) == (0.0, float("inf"))


@pytest.mark.parametrize("gate", Gate)
@pytest.mark.parametrize("policy", ["lru", "prefix_depth", "arc"])
def test_blocks_that_are_dropped_while_others_are_loaded_are_new(policy: str, gate: Gate) -> None:
    """Prompts that begin alike, in so little room that what a request still wants may go to make room for it."""
    order = random.Random(5)
    prompts = [[10 * start + i for i in range(order.randint(1, 6))] for start in order.choices(range(5), k=300)]
    manager, mover = make(policy, 7, 14)
    result = replay_requests(requests_of(*prompts), manager, mover, OneSecondAToken(), gate=gate)
    assert result.num_requests == 300
    assert result.hits <= result.accesses == sum(map(len, prompts))
    manager.check()
