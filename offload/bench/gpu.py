"""What benchmarks on a GPU share: placements that no budget would give, links measured in the same run, rooflines."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from offload.bench.drive import Drive
from offload.bench.generation import with_tiers
from offload.bench.header import header
from offload.config import RunConfig
from offload.device import has_own_memory, require_device, torch_device
from offload.offloaded_model import OffloadedModel
from offload.plan import Plan, Workload
from offload.prospect import Prospect

Row = dict[str, Any]
Change = Callable[[Prospect, Plan], Plan]
T = TypeVar("T")

_GIB = 2**30

HOST_LIMIT = 3 * _GIB
"""Of runs in a memory cgroup: for the libraries of CUDA and their buffers, and less than what a peer has on disk."""


@dataclass(frozen=True, slots=True)
class GPUSizes:
    """How much to generate. The defaults are the benchmark; tests use small ones."""

    prompt: int = 512
    new: int = 32
    slow_new: int = 6
    """Of what a drive or a peer holds up."""
    long_context: int = 32768
    expert_prompt: int = 64
    expert_steps: int = 96
    rounds: int = 3
    fio_s: float = 3.0
    most_file_nbytes: int = 4 * 2**30
    copy_nbytes: int = 256 * 2**20


@dataclass(frozen=True, slots=True)
class GPUBench:
    """One model on one GPU, and a drive to measure beside it."""

    drive: Drive
    model: Path
    nvme_dir: Path
    device: torch.device
    sizes: GPUSizes
    tick: Callable[[], None]
    notes: dict[str, None] = field(default_factory=dict)
    """What was slower in some run than it could be, and why."""

    def answer(self, rows: list[Row], seed: int) -> dict[str, Any]:
        return header(seed=seed, directory=self.nvme_dir.parent) | {
            "model": self.model.name,
            "device": torch.cuda.get_device_name(self.device),
            "drive_measured_with": self.drive.tool,
            "slower_because": list(self.notes),
            "rows": rows,
        }

    @property
    def has_host(self) -> bool:
        """Whether there is a memory beside the device's, for rows with something in it."""
        return has_own_memory(str(self.device))

    def config(self, **budget: Any) -> RunConfig:
        """On this device, with ``budget`` and the drive."""
        return RunConfig(device=str(self.device), nvme_dir=self.nvme_dir, **budget)

    def with_plan(
        self,
        config: RunConfig,
        prompt: int,
        new: int,
        use: Callable[[OffloadedModel], T],
        change: Change | None = None,
    ) -> T:
        def noted(model: OffloadedModel) -> T:
            found = use(model)
            self.notes.update(dict.fromkeys(model.runtime.notes))
            return found

        found, _ = with_tiers(self.model, config, Workload(1, prompt, new), noted, change=change)
        free()
        return found

    def plain(self) -> PreTrainedModel:
        model: Any = AutoModelForCausalLM.from_pretrained(self.model, dtype="auto").eval()
        return model.to(self.device)  # type: ignore[no-any-return]

    def limited(
        self, name: str, step_s: float, resident_s: float, missed: dict[str, float], rates: dict[str, float]
    ) -> Row:
        roofline = max(resident_s, *(missed[link] / rates[link] for link in rates))
        row: Row = {"name": name, "unit": "tokens/s", "ours": 1 / step_s, "limit": 1 / roofline}
        return row | {
            "ratio_to_limit": roofline / step_s,
            "time_over_roofline": step_s / roofline,
            "resident_tokens_per_s": 1 / resident_s,
            "missed_bytes_per_token": missed,
            "gib_s": {link: rate / _GIB for link, rate in rates.items()},
        }

    def rates(self) -> dict[str, float]:
        return {"host->device": self._copy_rate(), "nvme->device": self.drive.bytes_per_s()}

    def mean(self, before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
        return {link: (before[link] + after[link]) / 2 for link in before}

    def _copy_rate(self) -> float:
        """Bytes per second of plain large copies from page-locked memory."""
        here = torch.empty(self.sizes.copy_nbytes, dtype=torch.uint8, pin_memory=True)
        there = torch.empty_like(here, device=self.device)
        times = []
        for _ in range(8):
            torch.cuda.synchronize(self.device)
            start = time.perf_counter()
            there.copy_(here, non_blocking=True)
            torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - start)
        return here.nbytes / statistics.median(times)


@contextmanager
def opened(
    path: Path, nvme_dir: Path, device: str, sizes: GPUSizes, tick: Callable[[], None], seed: int
) -> Iterator[GPUBench]:
    """A file to read from is written once. Raises as ``Drive``; InvalidOptionError for a device that is not there."""
    require_device(device)
    with Drive.opened(nvme_dir, seconds=sizes.fio_s, most_nbytes=sizes.most_file_nbytes, seed=seed) as drive:
        yield GPUBench(drive, path, nvme_dir / "runs", torch_device(device), sizes, tick)


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
