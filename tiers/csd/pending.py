"""An answer that is on its way."""

from collections.abc import Callable
from typing import Generic, TypeVar

from tiers.csd.commands import Completion

Answer = TypeVar("Answer", bound=Completion)


class Pending(Generic[Answer]):
    """A command that was sent. An error that the drive met is raised by ``wait`` and nowhere else."""

    def __init__(self, finish: Callable[[], Answer]) -> None:
        self._finish = finish
        self._answer: Answer | None = None

    def wait(self) -> Answer:
        """What the command was answered; raises what the drive raised, DeviceGoneError."""
        if self._answer is None:
            self._answer = self._finish()
        return self._answer
