"""Moves blocks between tiers in the background: submit, poll, wait, cancel.

Every ordered pair of tiers is a link with a thread and a queue of its own. On a link, demand goes before prefetch,
prefetch before guesses and those before write-back, and since blocks are cut in chunks a demand overtakes a prefetch
that has already begun.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tiers.chunks import Move
from tiers.errors import TransferError
from tiers.kvikio_settings import KvikioSettings
from tiers.link import Link, LinkStats, Priority, Transfer
from tiers.open_link import open_link
from tiers.tier import Tier
from tiers.timeline import Timeline


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """How links are driven."""

    queue_depth: int = 16
    """Requests in flight on a link to or from files."""
    chunk_nbytes: int = 512 * 1024
    """Bytes of a request. With the depth it bounds what a demand waits for: 8 MiB, some 5 ms."""
    memory_chunk_nbytes: int = 4 * 2**20
    """Bytes that are copied in a row between memories, before a demand may overtake: under 1 ms."""
    guess_depth: int = 4
    """Requests in flight for blocks that may not be needed."""
    device_chunk_nbytes: int = 16 * 2**20
    """Bytes of one copy to or from a device: 300 µs on a fast link, several times what it costs to ask for it."""
    device_depth: int = 3
    """Copies under way on a link to or from a device."""
    files_to_device: Literal["auto", "staged", "kvikio"] = "auto"
    """How a device is filled from files: through pinned host memory, or by kvikio, which is faster only where the drive
    writes into the memory of the device itself. "auto" is kvikio there and staged elsewhere."""
    kvikio: KvikioSettings = field(default_factory=KvikioSettings)
    stall_timeout_s: float = 60.0
    """A transfer that does not end for so long is reported as failed: a drive that hangs must not hang us."""


class TransferEngine:
    """Owns the links. All methods are for one thread, the caller's; links work on threads of their own."""

    def __init__(self, config: TransferConfig = TransferConfig(), timeline: Timeline | None = None) -> None:
        self.config = config
        self.timeline = timeline
        self.stall_s = 0.0
        """Seconds that ``wait`` has blocked its caller."""
        self._links: dict[tuple[str, str], Link] = {}
        self._finished = threading.Condition()

    def submit(self, source: Tier, target: Tier, moves: Sequence[Move], priority: Priority) -> Transfer:
        """Start moving blocks; the target slots hold nothing meaningful until the transfer is done."""
        transfer = Transfer(source, target, tuple(moves), priority)
        self._link(source, target).submit(transfer)
        return transfer

    def poll(self, transfer: Transfer) -> bool:
        """Whether a transfer has ended, well or not; never blocks."""
        return transfer.is_done

    def wait(self, transfer: Transfer) -> None:
        """Block until a transfer has ended.

        Raises what stopped it: TransferError, CorruptBlockError, or TransferCancelledError. One that has not ended
        after ``stall_timeout_s`` counts as failed; its slots are not to be used again before ``is_done``.
        """
        if not transfer.is_done and not transfer.is_given_up:
            start = time.perf_counter()
            self.expedite(transfer)
            with self._finished:
                in_time = self._finished.wait_for(lambda: transfer.is_done, self.config.stall_timeout_s)
            self.stall_s += time.perf_counter() - start
            if self.timeline:
                self.timeline.record("stall", f"wait for {transfer.link_name}", start)
            if not in_time:
                self._give_up(transfer)
        if transfer.error is not None:
            raise transfer.error

    def expedite(self, transfer: Transfer) -> None:
        """Somebody waits for it now: whatever it was, it is a demand."""
        link = self._links.get(_ends(transfer))
        if link is not None:
            link.expedite(transfer)

    def cancel(self, transfer: Transfer) -> bool:
        """Drop what has not been started. True if nothing of it will move any more and its slots are free for others.

        Else wait for it: it ends as soon as what is in flight has ended, with TransferCancelledError if some of it was
        dropped.
        """
        link = self._links.get(_ends(transfer))
        return link is not None and link.cancel(transfer)

    @property
    def links(self) -> dict[str, LinkStats]:
        """Counters by link name, ``"nvme->device"``."""
        return {f"{source}->{target}": link.stats for (source, target), link in self._links.items()}

    @property
    def notes(self) -> list[str]:
        """What is slower on some link than it could be and why, one line each."""
        return [f"{link.name}: {note}" for link in self._links.values() for note in link.notes]

    def close(self) -> None:
        """Cancel what waits, let finish what is in flight, stop the threads; gives up on a drive that hangs."""
        for link in self._links.values():
            link.close(self.config.stall_timeout_s)
        self._links = {}

    def _give_up(self, transfer: Transfer) -> None:
        with self._finished:
            if transfer.is_done:
                return
            transfer.is_given_up = True
            transfer.error = transfer.error or TransferError(
                f"{transfer.link_name}: no answer for {self.config.stall_timeout_s:g} s; check the drive",
                tier=transfer.source.name,
            )
        self.cancel(transfer)

    def _link(self, source: Tier, target: Tier) -> Link:
        ends = (source.name, target.name)
        link = self._links.get(ends)
        if link is None:
            link = self._links[ends] = open_link(source, target, self.config, self._finished, self.timeline)
        return link


def _ends(transfer: Transfer) -> tuple[str, str]:
    return transfer.source.name, transfer.target.name


__all__ = ["Move", "Priority", "Transfer", "TransferConfig", "TransferEngine"]
