"""One direction between memory and files: requests to a drive, a bounded number of them at a time."""

import threading
import time
from contextlib import suppress

from tiers.chunks import Chunk, plan_chunks
from tiers.errors import TransferError, WorldError
from tiers.io_queue import IOQueue, IORequest
from tiers.link import Link, Priority, Transfer, as_world_error, describe
from tiers.tier import SupportsChecksum, SupportsDirectIO, SupportsView
from tiers.timeline import Timeline


class FileLink(Link):
    """Between memory and files: as many chunks in flight as the queue is deep, across transfers."""

    def __init__(
        self,
        name: str,
        finished: threading.Condition,
        timeline: Timeline | None,
        queue: IOQueue,
        chunk_nbytes: int,
        guess_depth: int,
        *,
        is_write: bool,
    ) -> None:
        self._guess_depth = guess_depth
        self._num_guesses = 0
        self._is_write = is_write
        self._queue = queue
        self._chunk_nbytes = chunk_nbytes
        self._in_flight: dict[int, tuple[Transfer, Chunk, float, bool]] = {}
        """By tag: what it belongs to, when it started, and whether it counts as a guess."""
        self._next_tag = 0
        super().__init__(name, finished, timeline)

    def _run(self) -> None:
        busy_since = 0.0
        while True:
            with self._changed:
                if not self._in_flight:
                    self._changed.wait_for(lambda: self._is_closed or self._next() is not None)
                    busy_since = time.perf_counter()
                    if self._is_closed and self._next() is None:
                        break
            ended: list[Transfer] = []
            try:
                self._start_chunks()
                for completion in self._queue.reap():
                    ended += self._complete(completion.tag, completion.nbytes, completion.error)
                self._start_chunks()  # so that the drive has work while checksums are compared
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                self._fail_all(error)
            for transfer in ended:
                self._finish(transfer, None if transfer.error else self._verify(transfer))
            now = time.perf_counter()
            self.stats.busy_s += now - busy_since
            busy_since = now
        self._queue.close()

    def _start_chunks(self) -> None:
        requests: list[IORequest] = []
        while self._queue.in_flight + len(requests) < self._queue.depth:
            with self._changed:
                transfer = self._next()
                if transfer is None:
                    break
                if not self._is_planned(transfer):
                    continue
                chunk = transfer.chunks.popleft()
                transfer.num_in_flight += 1
                if not transfer.chunks:
                    self._queues[transfer.priority].popleft()
            requests.append(IORequest(self._next_tag, chunk.fd, chunk.offset, chunk.buffers, self._is_write))
            is_guess = transfer.priority is Priority.GUESS
            self._num_guesses += is_guess
            self._in_flight[self._next_tag] = (transfer, chunk, time.perf_counter(), is_guess)
            self._next_tag += 1
        if requests:
            self._queue.submit(requests)
        with self._changed:
            # While the drive is busy: then the next transfer starts at once when there is room for it.
            transfer = self._next()
            if transfer is not None:
                self._is_planned(transfer)

    def _next(self) -> Transfer | None:
        transfer = super()._next()
        if transfer is None or transfer.priority is not Priority.GUESS or self._num_guesses < self._guess_depth:
            return transfer
        return next(iter(self._queues[Priority.WRITE_BACK]), None)

    def _is_planned(self, transfer: Transfer) -> bool:
        """Whether a transfer is cut into chunks, which is done now if it was not; False if it is over."""
        return bool(transfer.chunks) or transfer.num_in_flight > 0 or self._plan(transfer)

    def _plan(self, transfer: Transfer) -> bool:
        """Cut a transfer into chunks when its turn has come; False if it is over: that failed, or there are none."""
        source, target = transfer.source, transfer.target
        files, memory = (target, source) if self._is_write else (source, target)
        assert isinstance(files, SupportsDirectIO)
        assert isinstance(memory, SupportsView)
        try:
            if self._is_write and isinstance(target, SupportsChecksum):
                for move in transfer.moves:
                    target.seal(move.target_slot, memory.view(move.source_slot))
            chunks = plan_chunks(files, memory, transfer.moves, self._chunk_nbytes, is_write=self._is_write)
            transfer.chunks.extend(chunks)
            failure = None
        except Exception as error:  # noqa: BLE001
            failure = as_world_error(error, transfer)
        if transfer.chunks:
            return True
        self._queues[transfer.priority].popleft()
        self._finish(transfer, failure)
        return False

    def _complete(self, tag: int, nbytes: int, error: OSError | None) -> list[Transfer]:
        """Note how a chunk has ended; returns its transfer if that was the last of it."""
        if tag not in self._in_flight:
            return []  # of a transfer that ``_fail_all`` has ended
        transfer, chunk, start, is_guess = self._in_flight.pop(tag)
        self._num_guesses -= is_guess
        self.stats.nbytes += nbytes
        if self._timeline:
            self._timeline.record(self.name, describe(transfer), start, nbytes)
        failure: WorldError | None = None
        if error is not None:
            failure = TransferError(f"{self.name}: {error.strerror or error}", tier=self.name)
        elif nbytes < chunk.required:
            failure = TransferError(
                f"{self.name}: {nbytes} of {chunk.required} bytes moved at offset {chunk.offset}", tier=self.name
            )
        with self._changed:
            transfer.num_in_flight -= 1
            if failure is not None:
                transfer.error = transfer.error or failure
                if transfer.chunks:
                    transfer.chunks.clear()
                    self._queues[transfer.priority].remove(transfer)
            is_last = transfer.num_in_flight == 0 and not transfer.chunks
        return [transfer] if is_last else []

    def _verify(self, transfer: Transfer) -> WorldError | None:
        self.stats.num_blocks += len(transfer.moves)
        source, target = transfer.source, transfer.target
        if not (isinstance(source, SupportsChecksum) and isinstance(target, SupportsView)):
            return None
        try:
            for move in transfer.moves:
                source.verify(move.source_slot, target.view(move.target_slot))
        except Exception as error:  # noqa: BLE001
            return as_world_error(error, transfer)
        return None

    def _fail_all(self, error: Exception) -> None:
        """The queue itself is broken: end every transfer, so that whoever waits learns of it."""
        with suppress(Exception):
            while self._queue.in_flight:
                self._queue.reap()  # until then the drive may still write into slots that are about to be free
        with self._changed:
            doomed = {id(t): t for t, *_ in self._in_flight.values()}
            doomed.update({id(t): t for queue in self._queues.values() for t in queue})
            self._in_flight.clear()
            self._num_guesses = 0
            for queue in self._queues.values():
                queue.clear()
        for transfer in doomed.values():
            self._finish(transfer, as_world_error(error, transfer))
