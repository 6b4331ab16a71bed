"""Generation against plain transformers, accelerate's disk offload, and what drive and processor allow."""

import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoModelForCausalLM, AutoTokenizer

from offload.bench.fio import ENGINES, FioFailed, find_fio
from offload.bench.generation import Timed, generate_timed, spill_kv, with_tiers
from offload.bench.header import header
from offload.config import RunConfig
from offload.disk_speed import FILL_NBYTES, Pattern, descriptor, file_nbytes, lay_down, measure
from offload.loader import open_prospect
from offload.plan import Workload
from tiers.block import KVBlockKey
from tiers.eviction.mru import MRUPolicy
from tiers.manager import Level, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.pool import BlockPool
from tiers.transfer import TransferEngine

if TYPE_CHECKING:
    from offload.offloaded_model import OffloadedModel

Progress = Callable[[int, int], None]
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much to generate. The defaults are the benchmark; tests use small ones."""

    short_prompt: int = 512
    short_new: int = 128
    streamed_prompt: int = 64
    streamed_new: int = 24
    long_context: int = 8192
    long_new: int = 24
    block_context: int = 2048
    rounds: int = 3
    fio_s: float = 6.0
    most_file_nbytes: int = 2**30


def bench_kv(
    model: Path, nvme_dir: Path, *, progress: Progress | None = None, sizes: Sizes | None = None, seed: int = 0
) -> dict[str, object]:
    """Rows: everything resident; weights at a quarter; KV at a quarter; blocks of several sizes; a lookup.

    ``limit`` of a streamed row is its roofline: the resident time of the same step, or its missed bytes at the rate
    that fio reached before and after, whichever is longer. Raises as ``offload.load``.
    """
    bench = _Bench(model, nvme_dir, sizes or Sizes(), seed, _ticker(progress, total=9))
    rows = [*bench.resident_rows(), *bench.weight_rows(), *bench.kv_rows(), *bench.block_rows(), lookup_row()]
    return header(seed=seed, directory=nvme_dir) | {
        "model": str(model.name),
        "drive_read_gib_s": [rate / 2**30 for rate in bench.drive_rates],
        "drive_measured_with": bench.drive_tool,
        "rows": rows,
    }


@dataclass(slots=True)
class _Bench:
    model: Path
    nvme_dir: Path
    sizes: Sizes
    seed: int
    tick: Callable[[], None]
    drive_rates: list[float] = field(default_factory=list)
    drive_tool: str = ""

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
        yield _rate_row(
            f"all resident, {len(prompt)} + {new} tokens",
            statistics.median(timed.tokens_per_s for timed in ours),
            statistics.median(timed.tokens_per_s for timed in theirs),
            peer_name="transformers",
            same_tokens=ours[-1].tokens == theirs[-1].tokens,
        )
        self.tick()

    def weight_rows(self) -> Iterator[Row]:
        """Weights at a quarter of their size: the rest comes from the drive for every token."""
        prompt, new = self._prompt(self.sizes.streamed_prompt), self.sizes.streamed_new
        workload = Workload(1, len(prompt), new)
        resident, _ = with_tiers(self.model, RunConfig(), workload, lambda m: generate_timed(m, prompt, new))
        budget = self._weight_nbytes() // 4
        config = RunConfig(device_memory=budget, nvme_dir=self.nvme_dir)
        before = self._drive_rate()
        ours, plan = with_tiers(self.model, config, workload, lambda m: generate_timed(m, prompt, new))
        self.tick()
        limit = self._roofline_s(ours, resident, before)
        peer = self._accelerate(prompt, new, budget)
        self.tick()
        yield _rate_row(
            f"weights at a quarter ({budget / 2**20:.0f} MiB on the device)",
            1 / ours.step_s,
            None if peer is None else 1 / peer.step_s,
            peer_name="accelerate, page cache warm",
            limit=1 / limit,
            same_tokens=ours.tokens == resident.tokens,
            missed_bytes_per_token=_missed(ours),
            resident_groups=len(plan.resident),
            staging_slots=plan.staging_slots,
        )

    def kv_rows(self) -> Iterator[Row]:
        """The whole context of the model, a quarter of its KV cache on the device, the rest on the drive."""
        new = self.sizes.long_new
        prompt = self._prompt(self.sizes.long_context - new)
        yield self._spilled_row(f"KV of {self.sizes.long_context} tokens at a quarter", prompt, new, block_tokens=64)

    def block_rows(self) -> Iterator[Row]:
        """The size of a block: small ones cost bookkeeping, large ones waste room in the last block of every layer."""
        new = self.sizes.long_new
        prompt = self._prompt(self.sizes.block_context - new)
        for tokens in (16, 32, 64, 128):
            name = f"KV of {self.sizes.block_context} tokens at a quarter, blocks of {tokens}"
            yield self._spilled_row(name, prompt, new, block_tokens=tokens)

    def _spilled_row(self, name: str, prompt: list[int], new: int, *, block_tokens: int) -> Row:
        workload = Workload(1, len(prompt), new)
        config = RunConfig(nvme_dir=self.nvme_dir)

        def use(offloaded: "OffloadedModel") -> Timed:
            return generate_timed(offloaded, prompt, new)

        resident, _ = with_tiers(self.model, config, workload, use, block_tokens=block_tokens)
        before = self._drive_rate()
        ours, plan = with_tiers(self.model, config, workload, use, change=spill_kv(0.25), block_tokens=block_tokens)
        self.tick()
        return _rate_row(
            name,
            1 / ours.step_s,
            limit=1 / self._roofline_s(ours, resident, before),
            same_tokens=ours.tokens == resident.tokens,
            missed_bytes_per_token=_missed(ours),
            resident_tokens_per_s=1 / resident.step_s,
            device_blocks=plan.kv_device_blocks,
        )

    def _roofline_s(self, ours: Timed, resident: Timed, rate_before: float) -> float:
        rate = statistics.mean((rate_before, self._drive_rate()))
        return max(resident.step_s, _missed(ours) / rate)

    def _drive_rate(self) -> float:
        """Bytes per second of random reads of 512 KiB, 16 deep: fio's, or ours where fio is not installed."""
        directory = self.nvme_dir / "bench"
        nbytes = min(file_nbytes(self.nvme_dir), self.sizes.most_file_nbytes)
        tier = NVMeTier(directory, nbytes // FILL_NBYTES, FILL_NBYTES)
        try:
            nbytes = lay_down(tier, seconds=20)
            pattern = Pattern(512 * 1024, is_write=False, is_random=True)
            fio = find_fio(direct=tier.direct, nbytes=nbytes, seed=self.seed)
            rates: dict[str, float] = {}
            if fio:
                for engine in ENGINES:
                    found = fio.measure(descriptor(tier), pattern, engine, self.sizes.fio_s / len(ENGINES))
                    if not isinstance(found, FioFailed):
                        rates[f"fio {engine}"] = found.bytes_per_s
            if not rates:
                own = measure(tier, pattern, nbytes=nbytes, seconds=self.sizes.fio_s, seed=self.seed)
                rates["our own queue (fio is not installed)"] = own.bytes_per_s
        finally:
            tier.close()
        self.drive_tool = max(rates, key=lambda name: rates[name])
        self.drive_rates.append(rates[self.drive_tool])
        return rates[self.drive_tool]

    def _accelerate(self, prompt: list[int], new: int, budget: int) -> Timed | None:
        """Hugging Face's own way of running a model that does not fit; None where accelerate is not installed."""
        try:
            import accelerate  # noqa: F401 - from_pretrained needs it for device_map
        except ImportError:
            return None
        with tempfile.TemporaryDirectory(dir=self.nvme_dir.parent, prefix="accelerate-") as folder:
            peer = AutoModelForCausalLM.from_pretrained(
                self.model, dtype="auto", device_map="auto", max_memory={"cpu": budget}, offload_folder=folder
            )
            timed = generate_timed(peer, prompt, new)
            del peer
            gc.collect()
        return timed

    def _weight_nbytes(self) -> int:
        prospect = open_prospect(self.model)
        prospect.source.close()
        return sum(group.nbytes for group in prospect.source.groups)

    def _prompt(self, num_tokens: int) -> list[int]:
        """The beginning of a long real text: the help topics that come with Python."""
        import pydoc_data.topics

        tokenizer = AutoTokenizer.from_pretrained(self.model)
        text = Path(pydoc_data.topics.__file__).read_text(encoding="utf-8")[: num_tokens * 12]
        ids: list[int] = tokenizer(text, verbose=False).input_ids
        return list(itertools.islice(itertools.cycle(ids), num_tokens))


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


def _rate_row(
    name: str,
    ours: float,
    peer: float | None = None,
    *,
    peer_name: str | None = None,
    limit: float | None = None,
    **more: object,
) -> Row:
    row: Row = {"name": name, "unit": "tokens/s", "ours": ours}
    if peer is not None:
        row |= {"peer": peer, "peer_name": peer_name, "ratio_to_peer": ours / peer}
    if limit is not None:
        row |= {"limit": limit, "ratio_to_limit": ours / limit, "time_over_roofline": limit / ours}
    return row | more


def _missed(timed: Timed) -> float:
    """Bytes that came from the drive, per decode step."""
    assert timed.stretch is not None
    return timed.stretch.nbytes("nvme->device") / timed.stretch.passes


def _ticker(progress: Progress | None, total: int) -> Callable[[], None]:
    counter = itertools.count(1)

    def tick() -> None:
        done = next(counter)
        if progress:
            progress(min(done, total), total)

    return tick
