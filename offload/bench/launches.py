"""How long a device really works in a decode step: the rest of it waits to be told what to do.

What a step takes beyond that is all that CUDA graphs could save, which replay a step's kernels without the host.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from offload.bench.generation import greedy_tokens


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """Of one decode step: seconds in which the device had something to do, and how many kernels and copies it had."""

    busy_s: float
    num_kernels: float


def measure_work(model: PreTrainedModel, prompt: list[int], new_tokens: int) -> DeviceWork:
    """Of the decode steps of a greedy generation of ``new_tokens``, 2 at least, under torch's profiler.

    On a processor operators count in the place of kernels. All zero where the profiler sees nothing, as in a container
    that may not look into the GPU.
    """
    is_gpu = model.device.type == "cuda"
    watch = _Watch(model.device)
    greedy_tokens(model, prompt, new_tokens, watch)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in watch.events()
        if (event.device_type.name == "CUDA") == is_gpu  # launches are work of the processor
    ]
    steps = new_tokens - 1
    return DeviceWork(covered(spans) / 1e6 / steps, len(spans) / steps)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


class _Watch(BaseStreamer):
    """Profiles from the first new token to the last."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
        self._profile = profile(activities=[activity], acc_events=True)
        self._count = 0

    def put(self, value: Tensor) -> None:
        self._count += 1
        if self._count == 2:  # the first is the prompt
            self._profile.start()

    def end(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._profile.stop()

    def events(self) -> Iterable[Any]:
        return self._profile.events() or ()
