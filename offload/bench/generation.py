"""Timed generations: prompt, prefill, decode steps, and what the runtime's counters say of the decode."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from offload.config import RunConfig
from offload.doctor import load_profile
from offload.kv.open_drives import MakeTiming
from offload.loader import load_model
from offload.meter import Reading, Stretch
from offload.offloaded_model import OffloadedModel
from offload.plan import Plan, Workload
from offload.prospect import Prospect, open_prospect, plan_for

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed:
    """One greedy generation. ``stretch`` covers the decode steps; None for a model without tiers."""

    tokens: tuple[int, ...]
    prefill_s: float
    step_s: float
    stretch: Stretch | None

    @property
    def tokens_per_s(self) -> float:
        """New tokens over the whole time, prefill included."""
        return len(self.tokens) / (self.prefill_s + self.step_s * (len(self.tokens) - 1))


class _Clock(BaseStreamer):
    """Notes the time, and the counters if there are any, of the first token and of the last."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._runtime = model.runtime if isinstance(model, OffloadedModel) else None
        self.times: list[float] = []
        self.readings: list[Reading] = []

    def put(self, value: Tensor) -> None:
        if self._runtime:
            self.readings.append(Reading.of(self._runtime))
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to note."""


def generate_timed(model: PreTrainedModel, prompt: list[int], new_tokens: int, **options: object) -> Timed:
    """Exactly ``new_tokens`` tokens, greedily; ``options`` are those of ``generate``."""
    clock = _Clock(model)
    start = time.perf_counter()
    tokens = greedy_tokens(model, prompt, new_tokens, clock, **options)
    first, last = clock.times[1], clock.times[-1]
    steps = new_tokens - 1
    stretch = Stretch(clock.readings[1], clock.readings[-1], steps) if clock.readings else None
    return Timed(tokens, first - start, (last - first) / steps, stretch)


def greedy_tokens(
    model: PreTrainedModel, prompt: list[int], new_tokens: int, streamer: BaseStreamer, **options: object
) -> tuple[int, ...]:
    """Exactly ``new_tokens`` tokens, greedily; ``streamer`` is told of the prompt first, then of each."""
    inputs = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        generate = cast("Callable[..., Tensor]", model.generate)
        output = generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            streamer=streamer,
            **options,
        )
    return tuple(output[0, len(prompt) :].tolist())


@dataclass(frozen=True, slots=True)
class Window:
    """Decode steps in a row. ``nbytes_missed`` came from the drive, per step."""

    step_s: float
    nbytes_missed: float


class _Windows(BaseStreamer):
    """Cuts a decode into windows with breaks before, between and after them."""

    def __init__(self, model: OffloadedModel, steps: int, in_break: Callable[[], None]) -> None:
        self._runtime = model.runtime
        self._steps = steps
        self._in_break = in_break
        self._count = -1  # the first put is the prompt
        self._start: Reading | None = None
        self.windows: list[Window] = []

    def put(self, value: Tensor) -> None:
        self._count += 1
        place = (self._count - 1) % (1 + self._steps)
        if self._count and place == 0:
            if self._start:
                stretch = Stretch(self._start, Reading.of(self._runtime), self._steps)
                nbytes = stretch.nbytes("nvme->device")
                self.windows.append(Window(stretch.seconds / self._steps, nbytes / self._steps))
            self._in_break()
        elif self._count and place == 1:
            self._start = Reading.of(self._runtime)

    def end(self) -> None:
        """Nothing to note."""


def decode_in_windows(
    model: OffloadedModel, prompt: list[int], *, windows: int, steps: int, in_break: Callable[[], None]
) -> tuple[tuple[int, ...], list[Window]]:
    """Greedy tokens, decoded in ``windows`` of so many steps; ``in_break`` is called before, between and after them.

    One more step, which nobody times, opens each window: it finds what was read ahead in the break.
    """
    streamer = _Windows(model, steps, in_break)
    tokens = greedy_tokens(model, prompt, 1 + windows * (1 + steps), streamer)
    return tokens, streamer.windows


def with_tiers(
    model: Path,
    config: RunConfig,
    workload: Workload,
    use: Callable[[OffloadedModel], T],
    *,
    change: Callable[[Prospect, Plan], Plan] | None = None,
    block_tokens: int | None = None,
    drive_timing: MakeTiming | None = None,
) -> tuple[T, Plan]:
    """Load ``model`` within a budget, use it, close it. ``change`` may set up a placement that no budget would give."""
    prospect = open_prospect(model, config, context_tokens=workload.context_tokens, block_tokens=block_tokens)
    try:
        profile = load_profile(config.device)
        plan = plan_for(prospect, config, workload, profile)
        if change:
            plan = change(prospect, plan)
        offloaded = load_model(prospect, plan, config, workload, profile=profile, drive_timing=drive_timing)
    except BaseException:
        prospect.source.close()
        raise
    try:
        return use(offloaded), plan
    finally:
        offloaded.close()


def spill_kv(share_on_device: float) -> Callable[[Prospect, Plan], Plan]:
    """Turn an all-resident plan into one with only this share of the KV cache on the device, the rest on the drive."""

    def change(_: Prospect, plan: Plan) -> Plan:
        kept = max(1, int(plan.kv_device_blocks * share_on_device))
        return replace(plan, kv_device_blocks=kept, kv_nvme_blocks=plan.kv_device_blocks)

    return change
