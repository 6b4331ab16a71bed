"""What a process that times a generation is asked, and what it answers."""

from dataclasses import dataclass
from typing import Literal

WARM_STEPS = 4
"""Steps before those that are timed."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run. ``tokens`` is a file with token ids: ``prompt`` of them at once, the others one by one.

    ``engine`` is ours, plain transformers with everything in memory, accelerate with ``device_memory`` of it there and
    the rest in ``folder``, or llama.cpp, for which ``model`` is a GGUF file. ``expert_slots`` sets up a cache of that
    many experts whatever the budget would give.
    """

    engine: Literal["ours", "transformers", "accelerate", "llama.cpp"]
    model: str
    tokens: str
    prompt: int
    folder: str
    device_memory: int | None = None
    policy: str = "expected_use"
    predictor: str = "next_gate"
    expert_slots: int | None = None
    miss_precision: str = "high"
    device: str = "cpu"
    host_memory: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """What it took. Bytes came from the drive; those of experts that were fetched ahead in vain are among them."""

    prefill_s: float
    step_s: float
    peak_rss_nbytes: int
    prefill_nbytes: int = 0
    nbytes_per_step: float = 0.0
    """From the drive."""
    host_nbytes_per_step: float = 0.0
    stall_s_per_step: float = 0.0
    decision_s_per_step: float = 0.0
    hits: int = 0
    pending_hits: int = 0
    misses: int = 0
    expert_slots: int = 0
