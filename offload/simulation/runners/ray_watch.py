"""Whether the Ray cluster that cells run on is still there. Ray itself waits for a lost head for a minute or for ever,
and may then end the process that waits."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress

from offload.simulation.runners.base import Answer
from offload.simulation.runners.ray_address import answers
from offload.simulation.runners.ray_nodes import RayNode
from tiers.errors import WorldError

_LOOK_EVERY_S = 1.0
_MISSES = 3
"""Times in a row that the head gave no answer before it is gone: it may just be busy."""


class Watch:
    """Futures that fail with WorldError once the cluster of ``node`` is gone, whatever Ray makes of it."""

    def __init__(self, node: RayNode) -> None:
        self._node = node
        self._open: set[Future[Answer]] = set()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._is_gone = False

    @property
    def is_gone(self) -> bool:
        """Whether it was found to be gone."""
        return self._is_gone

    def add(self, future: Future[Answer]) -> Future[Answer]:
        """The same future, which is watched until it is done."""
        with self._lock:
            self._open.add(future)
            is_gone = self._is_gone
        future.add_done_callback(self._forget)
        if is_gone:
            self._fail(future)
        return future

    def run(self) -> None:
        """Looks until ``stop``; for a thread."""
        misses = 0
        while not self._end.wait(_LOOK_EVERY_S):
            misses = 0 if answers(self._node.head) else misses + 1
            if misses == _MISSES or not self._node.is_alive:
                with self._lock:
                    self._is_gone = True
                    lost = list(self._open)
                for future in lost:
                    self._fail(future)
                return

    def stop(self) -> None:
        """Ends ``run``."""
        self._end.set()

    def _forget(self, future: Future[Answer]) -> None:
        with self._lock:
            self._open.discard(future)

    def _fail(self, future: Future[Answer]) -> None:
        message = f"--ray: the cluster at {self._node.head} is gone; start it again and run the same command again"
        with suppress(InvalidStateError):  # it came through after all
            future.set_exception(WorldError(message))


@contextmanager
def watching(node: RayNode) -> Iterator[Watch]:
    """A watch on the cluster of ``node``, until the block is left."""
    watch = Watch(node)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()
