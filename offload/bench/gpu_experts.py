"""Mixtures of experts on a GPU that holds half of the experts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offload.bench.expert_run import time_plain_steps, time_steps
from offload.bench.expert_spec import Spec, Timing
from offload.bench.gpu import HOST_LIMIT, Change, GPUBench, GPUSizes, Row, free, opened
from offload.bench.limited import limited_row
from offload.bench.synthetic_moe import synthetic_moe
from offload.bench.ticker import Progress, ticker
from offload.config import RunConfig
from offload.offloaded_model import OffloadedModel
from offload.plan import Plan
from offload.prospect import Prospect, open_prospect
from offload.sizes import format_size


def bench_experts_on_gpu(
    model: Path | None,
    nvme_dir: Path,
    device: str,
    *,
    progress: Progress | None = None,
    sizes: GPUSizes | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Rows: everything resident; half of the experts in the host, and on the drive. Else as ``bench_kv_on_gpu``."""
    sizes = sizes or GPUSizes()
    path = model or synthetic_moe(nvme_dir)
    with opened(path, nvme_dir, device, sizes, ticker(progress, 3 + len(_PLACEMENTS)), seed) as bench:
        return bench.answer(list(_Rows(bench).expert_rows(seed)), seed)


_ON_DEMAND = ("lru", "none")
_OURS = ("expected_use", "next_gate")
_PLACEMENTS = (
    ("on the device, the rest in the host", 2, None, _OURS),
    ("on the device, the rest in the host, LRU on demand", 8, None, _ON_DEMAND),
    ("on the device, the rest in the host, expected use", 8, None, ("expected_use", "none")),
    ("on the device, the rest in the host, expected use, next gate", 8, None, _OURS),
    ("on the device, the rest on the drive, LRU on demand", 8, 0, _ON_DEMAND),
    ("on the device, the rest on the drive, expected use, next gate", 8, 0, _OURS),
)
"""Name, one in so many experts on the device, the host's budget, policy and predictor."""


@dataclass(frozen=True, slots=True)
class _Rows:
    bench: GPUBench

    def expert_rows(self, seed: int) -> Iterator[Row]:
        """Given tokens, so that every row does the same work: greedy ones of random weights soon repeat themselves."""
        count = self.bench.sizes.expert_prompt + self.bench.sizes.expert_steps
        prospect = open_prospect(self.bench.model, self.bench.config())
        prospect.source.close()
        vocabulary = int(prospect.config.vocab_size)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, vocabulary, (1, count), generator=generator).to(self.bench.device)
        plain = self.bench.plain()
        theirs = [time_plain_steps(plain, self.bench.sizes.expert_prompt, ids) for _ in range(2)][-1]
        del plain
        free()
        self.bench.tick()
        resident = self._experts(ids, self.bench.config())
        yield {"name": "all resident", "unit": "tokens/s", "ours": 1 / resident.step_s, "peer": 1 / theirs.step_s} | {
            "peer_name": "transformers",
            "ratio_to_peer": theirs.step_s / resident.step_s,
            "prefill_s": resident.prefill_s,
            "peer_prefill_s": theirs.prefill_s,
            "decisions_share": resident.decision_s_per_step / resident.step_s,
        }
        self.bench.tick()
        for name, share, host, (policy, predictor) in _PLACEMENTS:
            if host is None and not self.bench.has_host:
                continue
            config = self.bench.config(host_memory=host, policy=policy, predictor=predictor)
            slots = prospect.sizes.num_experts // share
            rates = self.bench.rates()
            timing = self._experts(ids, config, _keep_experts(slots, host is None))
            rates = self.bench.mean(rates, self.bench.rates())
            yield self._expert_row(f"{slots} of {prospect.sizes.num_experts} {name}", resident, timing, rates)
            self.bench.tick()
        yield self._limited_row(prospect, ids)
        self.bench.tick()

    def _limited_row(self, prospect: Prospect, ids: Tensor) -> Row:
        """The last placement once more, ours and accelerate's each in a cgroup of the host's memory."""
        free()
        folder, num_experts = self.bench.nvme_dir, prospect.sizes.num_experts
        folder.mkdir(parents=True, exist_ok=True)
        tokens = folder / "bench-tokens.txt"
        tokens.write_text(" ".join(map(str, ids[0].tolist())), encoding="utf-8")
        slots = num_experts // _PLACEMENTS[-1][1]
        ours = Spec(
            "ours", str(self.bench.model), str(tokens), self.bench.sizes.expert_prompt, str(folder), expert_slots=slots
        )
        ours = replace(ours, device=str(self.bench.device), host_memory=0)
        weights = sum(group.nbytes for group in prospect.source.groups)
        left = weights - (num_experts - slots) * prospect.sizes.expert_nbytes
        theirs = replace(ours, engine="accelerate", device_memory=left, folder=str(folder / "accelerate"))
        name = f"{slots} of {num_experts} on the device, in a memory cgroup of {format_size(HOST_LIMIT)}"
        return limited_row(name, "offload.bench.expert_run", ours, theirs, HOST_LIMIT, self.bench.drive.bytes_per_s)

    def _expert_row(self, name: str, resident: Timing, timing: Timing, rates: dict[str, float]) -> Row:
        missed = {"host->device": timing.host_nbytes_per_step, "nvme->device": timing.nbytes_per_step}
        accesses = max(1, timing.hits + timing.pending_hits + timing.misses)
        return self.bench.limited(name, timing.step_s, resident.step_s, missed, rates) | {
            "hit_ratio": (timing.hits + timing.pending_hits) / accesses,
            "stall_s_per_token": timing.stall_s_per_step,
            "decisions_share": timing.decision_s_per_step / timing.step_s,
            "prefill_s": timing.prefill_s,
        }

    def _experts(self, ids: Tensor, config: RunConfig, change: Change | None = None) -> Timing:
        prompt = self.bench.sizes.expert_prompt

        def use(model: OffloadedModel) -> Timing:
            time_steps(model, prompt, ids[:, : prompt + 8])  # which warms up kernels and cache
            return time_steps(model, prompt, ids)

        timing: Timing = self.bench.with_plan(config, prompt, ids.shape[1] - prompt, use, change)
        return timing


def _keep_experts(slots: int, in_host: bool) -> Change:
    """Only so many experts on the device; copies of all in the host, or of none."""

    def change(prospect: Prospect, plan: Plan) -> Plan:
        return replace(plan, expert_slots=slots, host_experts=prospect.sizes.num_experts if in_host else 0)

    return change
