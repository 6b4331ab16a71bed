"""Generation against plain transformers, accelerate's disk offload, and what drive and processor allow."""

import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM

from offload.bench.accelerated import accelerated
from offload.bench.drive import Drive
from offload.bench.generation import Timed, Window, decode_in_windows, generate_timed, spill_kv, with_tiers
from offload.bench.header import header
from offload.bench.kv_run import Spec, limited_kv_row
from offload.bench.memory_limit import INTERPRETER_NBYTES
from offload.bench.ticker import Progress, ticker
from offload.config import RunConfig
from offload.plan import Budgets, Plan, Workload
from offload.planner import smallest_device_bytes
from offload.prospect import Prospect, open_prospect
from offload.sizes import format_size
from offload.texts import help_tokens
from tiers.block import KVBlockKey
from tiers.eviction.mru import MRUPolicy
from tiers.manager import Level, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.pool import BlockPool
from tiers.transfer import TransferEngine

if TYPE_CHECKING:
    from offload.offloaded_model import OffloadedModel

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much to generate. The defaults are the benchmark; tests use small ones."""

    short_prompt: int = 512
    short_new: int = 128
    streamed_prompt: int = 64
    long_context: int = 8192
    block_context: int = 2048
    rounds: int = 3
    windows: int = 4
    window_steps: int = 16
    fio_s: float = 5.0
    most_file_nbytes: int = 2**30
    memory_limit: int | None = None
    """Of the runs in a cgroup; None takes what the interpreter needs and twice the budget."""
    limited_new: int = 25
    """Tokens of those; 0 leaves them out."""


def bench_kv(
    model: Path, nvme_dir: Path, *, progress: Progress | None = None, sizes: Sizes | None = None, seed: int = 0
) -> dict[str, Any]:
    """Rows: everything resident; weights at a quarter, also in a cgroup; KV likewise; sizes of blocks; a lookup.

    A streamed row is decoded in windows, turn by turn with fio. ``limit`` is the roofline: the resident time of the
    same step, or its missed bytes at the rate that fio reached before and after the window, whichever is longer; the
    row gives the median of the windows' ratios. Raises as ``offload.load``.
    """
    sizes = sizes or Sizes()
    with Drive.opened(nvme_dir, seconds=sizes.fio_s, most_nbytes=sizes.most_file_nbytes, seed=seed) as drive:
        bench = _Bench(model, nvme_dir / "runs", sizes, drive, ticker(progress, total=9))
        rows = [*bench.resident_rows(), *bench.weight_rows(), *bench.limited_rows()]
        rows += [*bench.kv_rows(), *bench.block_rows(), lookup_row()]
        return header(seed=seed, directory=nvme_dir) | {
            "model": str(model.name),
            "drive_measured_with": drive.tool,
            "rows": rows,
        }


@dataclass(frozen=True, slots=True)
class _Bench:
    model: Path
    nvme_dir: Path
    sizes: Sizes
    drive: Drive
    tick: Callable[[], None]

    def resident_rows(self) -> Iterator[Row]:
        """The cost of the runtime where it has nothing to do, turn by turn with plain transformers."""
        prompt, new = self._prompt(self.sizes.short_prompt), self.sizes.short_new
        theirs: list[Timed] = []
        ours: list[Timed] = []

        def use(offloaded: "OffloadedModel") -> Timed:
            plain = AutoModelForCausalLM.from_pretrained(self.model, dtype="auto").eval()
            generate_timed(offloaded, prompt, 2)
            generate_timed(plain, prompt, 2)
            for _ in range(self.sizes.rounds):
                ours.append(generate_timed(offloaded, prompt, new))
                theirs.append(generate_timed(plain, prompt, new))
            return ours[-1]

        with_tiers(self.model, RunConfig(), Workload(1, len(prompt), new), use)
        rate, peer = (statistics.median(timed.tokens_per_s for timed in runs) for runs in (ours, theirs))
        yield {
            "name": f"all resident, {len(prompt)} + {new} tokens",
            "unit": "tokens/s",
            "ours": rate,
            "peer": peer,
            "peer_name": "transformers",
            "ratio_to_peer": rate / peer,
            "same_tokens": ours[-1].tokens == theirs[-1].tokens,
        }
        self.tick()

    def weight_rows(self) -> Iterator[Row]:
        """Weights at a quarter of their size: the rest comes from the drive for every token."""
        prompt = self._prompt(self.sizes.streamed_prompt)
        budget = self._quarter(Workload(1, len(prompt), self._new_tokens))
        config = RunConfig(device_memory=budget, nvme_dir=self.nvme_dir)
        name = f"weights at a quarter ({budget / 2**20:.0f} MiB on the device)"
        row = self._streamed_row(name, prompt, config)
        self.tick()
        peer = self._accelerate(prompt, self._new_tokens, budget)
        if peer is not None:
            row |= {"peer": 1 / peer.step_s, "peer_name": "accelerate, page cache warm"}
            row["ratio_to_peer"] = row["ours"] * peer.step_s
        self.tick()
        yield row

    def limited_rows(self) -> Iterator[Row]:
        """The same in a memory cgroup, page cache included, where there is none to keep accelerate's files in."""
        prompt, new = self._prompt(self.sizes.streamed_prompt), self.sizes.limited_new
        if not new:
            return
        budget = self._quarter(Workload(1, len(prompt), new))
        limit = self.sizes.memory_limit or INTERPRETER_NBYTES + 2 * budget
        spec = Spec("ours", str(self.model), prompt, new, str(self.nvme_dir), budget)
        name = f"weights at a quarter, in a memory cgroup of {format_size(limit)}"
        yield limited_kv_row(name, spec, limit, self.drive.bytes_per_s)
        self.tick()

    def kv_rows(self) -> Iterator[Row]:
        """The whole context of the model, a quarter of its KV cache on the device, the rest on the drive."""
        prompt = self._prompt(self.sizes.long_context - self._new_tokens)
        yield self._spilled_row(f"KV of {self.sizes.long_context} tokens at a quarter", prompt, block_tokens=64)

    def block_rows(self) -> Iterator[Row]:
        """The size of a block: small ones cost bookkeeping, large ones waste room in the last block of every layer."""
        prompt = self._prompt(self.sizes.block_context - self._new_tokens)
        for tokens in (16, 32, 64, 128):
            name = f"KV of {self.sizes.block_context} tokens at a quarter, blocks of {tokens}"
            yield self._spilled_row(name, prompt, block_tokens=tokens)

    @property
    def _new_tokens(self) -> int:
        return 1 + self.sizes.windows * (1 + self.sizes.window_steps)

    def _spilled_row(self, name: str, prompt: list[int], *, block_tokens: int) -> Row:
        config = RunConfig(nvme_dir=self.nvme_dir)
        row = self._streamed_row(name, prompt, config, change=spill_kv(0.25), block_tokens=block_tokens)
        self.tick()
        return row

    def _streamed_row(
        self,
        name: str,
        prompt: list[int],
        config: RunConfig,
        *,
        change: Callable[[Prospect, Plan], Plan] | None = None,
        block_tokens: int = 64,
    ) -> Row:
        """The same generation with everything resident, then within the budget."""
        workload = Workload(1, len(prompt), self._new_tokens)
        rates: list[float] = []

        def stay(offloaded: "OffloadedModel") -> Timed:
            return generate_timed(offloaded, prompt, self._new_tokens)

        def stream(offloaded: "OffloadedModel") -> tuple[tuple[int, ...], list[Window]]:
            return decode_in_windows(
                offloaded,
                prompt,
                windows=self.sizes.windows,
                steps=self.sizes.window_steps,
                in_break=lambda: rates.append(self.drive.bytes_per_s()),
            )

        resident, _ = with_tiers(
            self.model, RunConfig(nvme_dir=self.nvme_dir), workload, stay, block_tokens=block_tokens
        )
        (tokens, windows), plan = with_tiers(
            self.model, config, workload, stream, change=change, block_tokens=block_tokens
        )
        drive = [(before + after) / 2 for before, after in itertools.pairwise(rates)]
        rooflines = [
            max(resident.step_s, window.nbytes_missed / rate) for window, rate in zip(windows, drive, strict=True)
        ]
        ratios = [window.step_s / roofline for window, roofline in zip(windows, rooflines, strict=True)]
        ours, limit = (1 / statistics.median(times) for times in ([w.step_s for w in windows], rooflines))
        return {"name": name, "unit": "tokens/s", "ours": ours, "limit": limit, "ratio_to_limit": ours / limit} | {
            "time_over_roofline": statistics.median(ratios),
            "time_over_roofline_by_window": ratios,
            "drive_gib_s": [rate / 2**30 for rate in rates],
            "missed_bytes_per_token": statistics.median(window.nbytes_missed for window in windows),
            "resident_tokens_per_s": 1 / resident.step_s,
            "same_tokens": tokens == resident.tokens,
            "resident_groups": len(plan.resident),
            "staging_slots": plan.staging_slots,
            "kv_device_blocks": plan.kv_device_blocks,
        }

    def _accelerate(self, prompt: list[int], new: int, budget: int) -> Timed | None:
        """Hugging Face's own way of running a model that does not fit; None where accelerate is not installed."""
        try:
            import accelerate  # noqa: F401 - from_pretrained needs it for device_map
        except ImportError:
            return None
        with tempfile.TemporaryDirectory(dir=self.nvme_dir.parent, prefix="accelerate-") as folder:
            peer = accelerated(self.model, "cpu", budget, folder)
            timed = generate_timed(peer, prompt, new)
            del peer
            gc.collect()
        return timed

    def _quarter(self, workload: Workload) -> int:
        """A quarter of the weights, or as much as it takes where that is too little."""
        prospect = open_prospect(self.model)
        prospect.source.close()
        weights = sum(group.nbytes for group in prospect.source.groups)
        return max(weights // 4, smallest_device_bytes(prospect.sizes, Budgets(), workload))

    def _prompt(self, num_tokens: int) -> list[int]:
        return help_tokens(self.model, num_tokens)


def lookup_row(num_blocks: int = 8, repeats: int = 2000) -> Row:
    """Taking resident blocks into use and letting go of them, through the manager."""
    engine = TransferEngine()
    tier = MemoryTier("device", 256, 4096)
    manager = TieredMemoryManager(engine, [Level(tier, BlockPool(256), MRUPolicy(256))])
    keys = [KVBlockKey(0, layer, index) for layer in range(32) for index in range(num_blocks)]
    manager.prepare_store(keys)
    manager.complete_store(keys)
    some = keys[:num_blocks]
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        manager.prepare_load(some)
        manager.complete_load(some)
        manager.release(some)
        times.append(time.perf_counter() - start)
    engine.close()
    tier.close()
    return {"name": f"resident lookup of {num_blocks} blocks", "unit": "us", "ours": statistics.median(times) * 1e6}
