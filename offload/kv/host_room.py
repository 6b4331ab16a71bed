"""Bytes of the host's memory that tokens on their way to drives may take."""

from collections import deque


class HostRoom:
    """``capacity_nbytes``, of which ``used_nbytes`` are taken and ``peak_nbytes`` were."""

    def __init__(self, capacity_nbytes: int) -> None:
        self.capacity_nbytes = capacity_nbytes
        self.peak_nbytes = 0
        self._taken_nbytes = 0
        self._returned: deque[int] = deque()

    @property
    def used_nbytes(self) -> int:
        while self._returned:
            self._taken_nbytes -= self._returned.popleft()
        return self._taken_nbytes

    def take(self, nbytes: int) -> bool:
        """Whether ``nbytes`` were there."""
        wanted = self.used_nbytes + nbytes
        if wanted > self.capacity_nbytes:
            return False
        self._taken_nbytes = wanted
        self.peak_nbytes = max(self.peak_nbytes, wanted)
        return True

    def give_back(self, nbytes: int) -> None:
        """Others may have them. The garbage collector may call this in the middle of ``take``: only takes note."""
        self._returned.append(nbytes)
