"""Made-up requests with what makes caches differ: popularity, shared prefixes, conversations. Same seed, same trace."""

import heapq
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from simulators.kv_trace.base import KVTrace, Request
from tiers.errors import InvalidOptionError, WorkloadWarning

_MOST = {"seed": 2**63, "skew": 100, "turns": 1000, "num_requests": 10**7, "block_tokens": 2**20}
_MOST_OF_ANY = 10**6
"""What takes more is no experiment but a slip of the pen, and would fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What all of them have. ``requests_per_s`` is the mean of a Poisson process."""

    num_requests: int = 1000
    requests_per_s: float = 1.0
    block_tokens: int = 512
    output_tokens: int = 200
    """Mean; lengths are geometrically distributed, and all 0 where it is."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value > _MOST.get(field.name, _MOST_OF_ANY):
                most = _MOST.get(field.name, _MOST_OF_ANY)
                raise InvalidOptionError(f"'{field.name}' of a workload is {value:g}; it must be at most {most:,}")
            if value < 0 or (value == 0 and field.name not in ("seed", "skew", "output_tokens", "own_blocks")):
                raise InvalidOptionError(f"'{field.name}' of a workload is {value}; it must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipfWorkload(Workload):
    """Questions about documents, the k-th most popular of which is asked about in proportion to k ** -skew."""

    num_documents: int = 1000
    document_blocks: int = 16
    own_blocks: int = 1
    """Of each request, behind the document."""
    skew: float = 1.0

    def trace(self) -> KVTrace:
        """Warns where the popularity is even: on that no policy can be told from another."""
        if self.skew == 0:
            message = "all documents are equally popular: no policy can be told from another; give it a skew, such as 1"
            warnings.warn(message, WorkloadWarning, stacklevel=2)
        return KVTrace("zipf", self.block_tokens, self._requests())

    def _requests(self) -> Iterator[Request]:
        random = np.random.default_rng(self.seed)
        weights = np.arange(1, self.num_documents + 1, dtype=np.float64) ** -self.skew
        documents = random.choice(self.num_documents, self.num_requests, p=weights / weights.sum()).tolist()
        new = itertools.count(self.num_documents * self.document_blocks)
        for arrival, output, document in zip(
            _arrivals(self, random), _lengths(self, random, self.num_requests), documents, strict=True
        ):
            start = document * self.document_blocks
            blocks = [*range(start, start + self.document_blocks), *itertools.islice(new, self.own_blocks)]
            yield Request(arrival, len(blocks) * self.block_tokens, output, blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefixWorkload(Workload):
    """A few system prompts, each with some sets of examples, and what is a request's own: a tree of prefixes.

    The k-th system prompt, and of each the k-th set of examples, is used in proportion to 1 / k.
    """

    num_systems: int = 8
    system_blocks: int = 4
    num_examples: int = 16
    example_blocks: int = 4
    own_blocks: int = 4

    def trace(self) -> KVTrace:
        """The trace."""
        return KVTrace("shared_prefixes", self.block_tokens, self._requests())

    def _requests(self) -> Iterator[Request]:
        random = np.random.default_rng(self.seed)
        systems = _ranks(random, self.num_systems, self.num_requests)
        examples = _ranks(random, self.num_examples, self.num_requests)
        stride = self.system_blocks + self.num_examples * self.example_blocks
        new = itertools.count(self.num_systems * stride)
        rows = zip(_arrivals(self, random), _lengths(self, random, self.num_requests), systems, examples, strict=True)
        for arrival, output, system, example in rows:
            first = system * stride
            second = first + self.system_blocks + example * self.example_blocks
            blocks = [*range(first, first + self.system_blocks), *range(second, second + self.example_blocks)]
            blocks += itertools.islice(new, self.own_blocks)
            yield Request(arrival, len(blocks) * self.block_tokens, output, blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatWorkload(Workload):
    """Conversations of several turns: each turn's prompt is all that was said before, and a new question.

    Conversations begin as a Poisson process such that there are ``requests_per_s`` in all; a turn comes after the one
    before by an exponentially distributed time to think.
    """

    turns: float = 5.0
    """Mean; at least one."""
    question_blocks: int = 2
    think_s: float = 30.0

    def trace(self) -> KVTrace:
        """The trace."""
        return KVTrace("chat", self.block_tokens, self._requests())

    def _requests(self) -> Iterator[Request]:
        random = np.random.default_rng(self.seed)
        new, number = itertools.count(), itertools.count()
        begin = 0.0
        origin: float | None = None
        # When the next turn of each conversation that goes on comes, and what was said in it.
        waiting: list[tuple[float, int, list[int]]] = []
        for _ in range(self.num_requests):
            if not waiting or begin <= waiting[0][0]:
                heapq.heappush(waiting, (begin, next(number), []))
                begin += random.exponential(max(1.0, self.turns) / self.requests_per_s)
            arrival, conversation, said = heapq.heappop(waiting)
            origin = arrival if origin is None else origin
            blocks = [*said, *itertools.islice(new, self.question_blocks)]
            (output,) = _lengths(self, random, 1)
            yield Request(arrival - origin, len(blocks) * self.block_tokens, output, blocks)
            if random.random() < 1 - 1 / max(1.0, self.turns):
                # Of the answer only whole blocks are known by their tokens.
                answer = itertools.islice(new, output // self.block_tokens)
                think = random.exponential(self.think_s)
                heapq.heappush(waiting, (arrival + think, conversation, [*blocks, *answer]))


def _arrivals(workload: Workload, random: np.random.Generator) -> list[float]:
    gaps = random.exponential(1 / workload.requests_per_s, workload.num_requests)
    gaps[:1] = 0.0
    times: list[float] = np.cumsum(gaps).tolist()
    return times


def _lengths(workload: Workload, random: np.random.Generator, number: int) -> list[int]:
    if not workload.output_tokens:
        return [0] * number
    lengths: list[int] = random.geometric(1 / workload.output_tokens, number).tolist()
    return lengths


def _ranks(random: np.random.Generator, n: int, size: int) -> list[int]:
    weights = 1 / np.arange(1, n + 1)
    ranks: list[int] = random.choice(n, size, p=weights / weights.sum()).tolist()
    return ranks
