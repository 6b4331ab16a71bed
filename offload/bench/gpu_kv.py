"""Generation on a GPU whose memory is too small: weights and KV blocks in the host's memory and on a drive."""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from offload.bench.accelerated import accelerated
from offload.bench.generation import Timed, generate_timed
from offload.bench.gpu import HOST_LIMIT, Change, GPUBench, GPUSizes, Row, free, opened
from offload.bench.kv_run import Spec, limited_kv_row
from offload.bench.launches import DeviceWork, measure_work
from offload.bench.synthetic_dense import synthetic_dense
from offload.bench.ticker import Progress, ticker
from offload.config import RunConfig
from offload.doctor import load_profile
from offload.offloaded_model import OffloadedModel
from offload.plan import Plan, Workload
from offload.prospect import Prospect, open_prospect, plan_for
from offload.sizes import format_size

_LAYERS = 16


def bench_kv_on_gpu(
    model: Path | None,
    nvme_dir: Path,
    device: str,
    *,
    progress: Progress | None = None,
    sizes: GPUSizes | None = None,
    memory_limit: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Rows: everything resident, the same against its kernels back to back, and by CUDA graphs; half of the weights,
    and three quarters of the KV cache, in the host or on the drive.

    ``model`` is a directory, or a synthetic dense model of 7 GB is used. ``limit`` is the roofline: the time of a
    resident step, or the bytes that came over a link at the rate that a plain large copy, or fio, reached in the same
    run, whichever is longest. One row more is in a memory cgroup, where no page cache keeps what a peer has on disk.
    Raises as ``offload.load``.
    """
    sizes = sizes or GPUSizes()
    path = model or synthetic_dense(nvme_dir, _LAYERS)
    with opened(path, nvme_dir, device, sizes, ticker(progress, 12), seed) as bench:
        rows = _Rows(bench)
        limited = rows.limited_row(memory_limit or HOST_LIMIT)
        return bench.answer([*rows.resident_rows(), *rows.weight_rows(), limited, *rows.kv_rows()], seed)


@dataclass(slots=True)
class _Rows:
    bench: GPUBench
    _resident: dict[int, Timed] = field(default_factory=dict)

    def resident_rows(self) -> Iterator[Row]:
        """The cost of the runtime where it has nothing to do, turn by turn with plain transformers."""
        prompt, new = self._prompt(self.bench.sizes.prompt), self.bench.sizes.new
        ours: list[Timed] = []
        theirs: list[Timed] = []

        def use(offloaded: OffloadedModel) -> DeviceWork:
            plain = self.bench.plain()
            for model, runs in ((offloaded, ours), (plain, theirs)) * (1 + self.bench.sizes.rounds):
                runs.append(generate_timed(model, prompt, new))
            return measure_work(offloaded, prompt, new)

        work = self.bench.with_plan(self.bench.config(), len(prompt), new, use)
        self._resident[len(prompt)] = ours[-1]
        step_s, peer_s = (statistics.median(timed.step_s for timed in runs[1:]) for runs in (ours, theirs))
        yield {
            "name": f"all resident, {len(prompt)} + {new} tokens",
            "unit": "tokens/s",
            "ours": 1 / step_s,
            "peer": 1 / peer_s,
            "peer_name": "transformers",
            "ratio_to_peer": peer_s / step_s,
            "prefill_s": ours[-1].prefill_s,
            "peer_prefill_s": theirs[-1].prefill_s,
            "same_tokens": ours[-1].tokens == theirs[-1].tokens,
        }
        self.bench.tick()
        yield _work_row(step_s, work)
        self.bench.tick()
        yield self._graph_row(prompt, new, peer_s, theirs[-1].tokens)
        self.bench.tick()

    def _graph_row(self, prompt: list[int], new: int, peer_s: float, expected: tuple[int, ...]) -> Row:
        """The same steps as CUDA graphs, where these prove right; ``replays`` counts them over all runs."""

        def use(model: OffloadedModel) -> tuple[list[Timed], int]:
            runs = [generate_timed(model, prompt, new) for _ in range(1 + self.bench.sizes.rounds)]
            return runs, model.runtime.graphs.num_replays if model.runtime.graphs else 0

        runs, replays = self.bench.with_plan(self._graph_config(), len(prompt), new, use)
        step_s = statistics.median(timed.step_s for timed in runs[1:])
        return {
            "name": "all resident, CUDA graphs",
            "unit": "tokens/s",
            "ours": 1 / step_s,
            "peer": 1 / peer_s,
            "peer_name": "transformers",
            "ratio_to_peer": peer_s / step_s,
            "replays": replays,
            "same_tokens": runs[-1].tokens == expected,
        }

    def _graph_config(self) -> RunConfig:
        return self.bench.config(cuda_graphs=True)

    def weight_rows(self) -> Iterator[Row]:
        """Half of the weights on the device."""
        prompt = self._prompt(self.bench.sizes.prompt)
        budget = self._half(len(prompt), self.bench.sizes.new)
        for place, host in (("in the host", None), ("on the drive", 0)):
            if host is None and not self.bench.has_host:
                continue
            config = RunConfig(
                device=str(self.bench.device), device_memory=budget, host_memory=host, nvme_dir=self.bench.nvme_dir
            )
            row = self._row(f"half of the weights {place}", prompt, self._count(host is None), config)
            self.bench.tick()
            row |= self._accelerate(prompt, budget, on_disk=host == 0)
            if "peer" in row:
                row["ratio_to_peer"] = row["ours"] / row["peer"]
            self.bench.tick()
            yield row

    def limited_row(self, limit: int) -> Row:
        """Half of the weights on the drive once more, ours and accelerate's each in a cgroup of the host's memory."""
        prompt, new = self._prompt(self.bench.sizes.prompt), self.bench.sizes.slow_new
        budget = self._half(len(prompt), new)
        free()
        folder = str(self.bench.nvme_dir)
        spec = Spec("ours", str(self.bench.model), prompt, new, folder, budget, str(self.bench.device))
        name = f"half of the weights on the drive, in a memory cgroup of {format_size(limit)}"
        row = limited_kv_row(name, spec, limit, self.bench.drive.bytes_per_s)
        self.bench.tick()
        return row

    def kv_rows(self) -> Iterator[Row]:
        """A long context, a quarter of its KV cache on the device."""
        new = self.bench.sizes.new
        prompt = self._prompt(self.bench.sizes.long_context - new)
        for tier in ("host", "nvme") if self.bench.has_host else ("nvme",):
            config = self.bench.config()
            name = f"KV of {self.bench.sizes.long_context} tokens, three quarters {_PLACES[tier]}"
            row = self._row(name, prompt, self._count(tier == "host"), config, change=_spill_kv(tier))
            self.bench.tick()
            if tier == "host":
                row |= self._offloaded_cache(prompt)
                row["ratio_to_peer"] = row["ours"] / row["peer"]
            self.bench.tick()
            yield row

    def _row(self, name: str, prompt: list[int], new: int, config: RunConfig, *, change: Change | None = None) -> Row:
        resident = self._all_resident(prompt)
        rates = self.bench.rates()
        timed = self.bench.with_plan(config, len(prompt), new, lambda model: generate_timed(model, prompt, new), change)
        rates = self.bench.mean(rates, self.bench.rates())
        assert timed.stretch is not None, "a model with tiers has counters"
        missed = {link: timed.stretch.nbytes(link) / timed.stretch.passes for link in rates}
        return self.bench.limited(name, timed.step_s, resident.step_s, missed, rates) | {
            "prefill_s": timed.prefill_s,
            "resident_prefill_s": resident.prefill_s,
            "same_tokens": timed.tokens == resident.tokens[: len(timed.tokens)],
        }

    def _count(self, is_fast: bool) -> int:
        return self.bench.sizes.new if is_fast else self.bench.sizes.slow_new

    def _all_resident(self, prompt: list[int]) -> Timed:
        new = self.bench.sizes.new
        if len(prompt) not in self._resident:
            use: Callable[[OffloadedModel], list[Timed]] = lambda model: [  # noqa: E731
                generate_timed(model, prompt, new) for _ in range(2)
            ]
            self._resident[len(prompt)] = self.bench.with_plan(self.bench.config(), len(prompt), new, use)[-1]
        return self._resident[len(prompt)]

    def _accelerate(self, prompt: list[int], budget: int, *, on_disk: bool) -> Row:
        """Hugging Face's own way of running a model that does not fit."""
        try:
            import accelerate  # noqa: F401 - from_pretrained needs it for device_map
        except ImportError:
            return {}
        with tempfile.TemporaryDirectory(dir=self.bench.nvme_dir.parent, prefix="accelerate-") as folder:
            device, host = str(self.bench.device), 0 if on_disk else 2**40
            peer = accelerated(self.bench.model, device, budget, folder, host_memory=host)
            timed = generate_timed(peer, prompt, self.bench.sizes.slow_new)
            del peer
            free()
        name = "accelerate, disk (page cache warm)" if on_disk else "accelerate, host"
        return {"peer": 1 / timed.step_s, "peer_name": name}

    def _offloaded_cache(self, prompt: list[int]) -> Row:
        """transformers with its own offloaded cache: layer by layer out of the host's memory."""
        plain = self.bench.plain()
        timed = generate_timed(plain, prompt, self.bench.sizes.slow_new, cache_implementation="offloaded")
        del plain
        free()
        return {"peer": 1 / timed.step_s, "peer_name": "transformers, offloaded cache"}

    def _half(self, prompt: int, new: int) -> int:
        """A budget that leaves half of the layers out."""
        config, workload = self.bench.config(), Workload(1, prompt, new)
        prospect = open_prospect(self.bench.model, config)
        prospect.source.close()
        plan = plan_for(prospect, config, workload, load_profile(config.device))
        return plan.device_bytes_used - sum(prospect.sizes.layer_nbytes) // 2

    def _prompt(self, num_tokens: int) -> list[int]:
        generator = torch.Generator().manual_seed(num_tokens)
        ids: list[int] = torch.randint(0, 1000, (num_tokens,), generator=generator).tolist()
        return ids


def _work_row(step_s: float, work: DeviceWork) -> Row:
    """A resident step against its kernels back to back, which is the most that CUDA graphs could make of it."""
    row: Row = {"name": "all resident, against its kernels back to back", "unit": "tokens/s", "ours": 1 / step_s}
    if not work.busy_s:
        return row | {"note": "torch's profiler sees no kernels here, so what CUDA graphs could save is not known"}
    row |= {"limit": 1 / work.busy_s, "ratio_to_limit": work.busy_s / step_s}
    return row | {"kernels_per_token": work.num_kernels}


_PLACES = {"host": "in the host", "nvme": "on the drive"}


def _spill_kv(tier: str) -> Change:
    """Turn an all-resident plan into one with a quarter of the KV cache on the device, the rest below."""

    def change(_: Prospect, plan: Plan) -> Plan:
        kept, blocks = max(1, plan.kv_device_blocks // 4), plan.kv_device_blocks
        if tier == "host":
            return replace(plan, kv_device_blocks=kept, kv_host_blocks=blocks)
        return replace(plan, kv_device_blocks=kept, kv_nvme_blocks=blocks)

    return change
