"""Batches of requests that need the same expert: Read-ME's algorithm 1."""

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tiers.errors import InvalidOptionError

R = TypeVar("R", bound=Hashable)


@dataclass(frozen=True, slots=True)
class GatedRequest(Generic[R]):
    """A request whose expert is known in advance; ``num_tokens`` of it would run in the next pass."""

    request: R
    expert: int
    num_tokens: int = 1


def expert_batches(requests: Sequence[GatedRequest[R]], max_tokens: int) -> Iterator[list[GatedRequest[R]]]:
    """Share ``requests`` out over batches of at most ``max_tokens`` tokens, each request in exactly one.

    Requests queue by expert. A batch takes the longest queue, by tokens, whole if it fits, and then the next longest;
    from the first one that does not fit it takes as many as do, in the order of their arrival, and is closed (arXiv
    2410.19123, algorithm 1). So a batch needs few experts, and a popular one is loaded once for many requests. Among
    queues of the same length the one whose first request came first goes first. Raises InvalidOptionError for a request
    of no tokens, or of more than a batch may have.
    """
    queues: dict[int, deque[GatedRequest[R]]] = {}
    for request in requests:
        if not 1 <= request.num_tokens <= max_tokens:
            raise InvalidOptionError(
                f"request {request.request} has {request.num_tokens} tokens, a batch from 1 to {max_tokens}; split it"
            )
        queues.setdefault(request.expert, deque()).append(request)
    lengths = {expert: sum(request.num_tokens for request in queue) for expert, queue in queues.items()}
    return _batches(queues, lengths, max_tokens)


def _batches(
    queues: dict[int, deque[GatedRequest[R]]], lengths: dict[int, int], max_tokens: int
) -> Iterator[list[GatedRequest[R]]]:
    while queues:
        batch: list[GatedRequest[R]] = []
        room = max_tokens
        while queues:
            longest = max(lengths, key=lengths.__getitem__)
            queue, is_whole = queues[longest], lengths[longest] <= room
            while queue and queue[0].num_tokens <= room:
                request = queue.popleft()
                room -= request.num_tokens
                lengths[longest] -= request.num_tokens
                batch.append(request)
            if not is_whole:
                break
            del queues[longest], lengths[longest]
        yield batch
