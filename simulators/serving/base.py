"""What is to be generated, on what, and what a system takes for it."""

from dataclasses import dataclass
from typing import Protocol

from simulators.model_costs import ModelShape
from simulators.profile import HardwareProfile


@dataclass(frozen=True, slots=True)
class Workload:
    """``batch`` sequences side by side: ``prompt_tokens`` each, then ``new_tokens`` more."""

    shape: ModelShape
    batch: int
    prompt_tokens: int = 1024
    new_tokens: int = 1024

    @property
    def tokens(self) -> int:
        """Of one sequence at the end."""
        return self.prompt_tokens + self.new_tokens

    def kv_nbytes(self, tokens: int) -> int:
        """Keys and values of the batch when each sequence has ``tokens``."""
        return self.batch * tokens * self.shape.kv_nbytes_per_token

    def contexts(self, count: int) -> list[int]:
        """Lengths that stand for all decode steps: the middles of ``count`` equal stretches."""
        return [self.prompt_tokens + (2 * i + 1) * self.new_tokens // (2 * count) for i in range(count)]


@dataclass(frozen=True, slots=True)
class Host:
    """A machine: its numbers, how many GPUs share the layers, and its memory."""

    profile: HardwareProfile
    devices: int = 1
    device_nbytes: int = 48 * 2**30
    host_nbytes: int = 90 * 2**30
    """What the system leaves of 96 GiB."""


@dataclass(frozen=True, slots=True)
class ServingTime:
    """Seconds for a whole workload. ``kv_s`` is the part of ``decode_s`` that goes into keys and values.

    Of decoding, where a system counts that: ``host_nbytes`` are what the host's memory takes and gives, ``drive_s`` the
    seconds in which each drive attends.
    """

    workload: Workload
    prefill_s: float
    decode_s: float
    kv_s: float
    host_nbytes: float = 0.0
    drive_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """New tokens of the batch over all seconds."""
        return self.workload.batch * self.workload.new_tokens / (self.prefill_s + self.decode_s)

    @property
    def kv_share(self) -> float:
        """Of the decode time."""
        return self.kv_s / self.decode_s


class ServingSystem(Protocol):
    """A way to run a model whose keys and values do not fit on the GPU."""

    def time(self, workload: Workload, host: Host) -> ServingTime:
        """Raises BudgetError where the system runs out of memory."""
        ...
