"""One timed generation of a mixture of experts, in a process of its own: ``python -m offload.bench.expert_run SPEC``.

SPEC is a JSON object of the fields of ``Spec``; the answer is one of the fields of ``Timing``.
"""

from offload.threads import wait_politely

wait_politely()  # before torch

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import asdict, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from offload.bench.expert_spec import WARM_STEPS, Spec, Timing  # noqa: E402
from offload.bench.generation import with_tiers  # noqa: E402
from offload.config import RunConfig  # noqa: E402
from offload.meter import Reading, Stretch  # noqa: E402
from offload.offloaded_model import OffloadedModel  # noqa: E402
from offload.peak_memory import peak_rss_nbytes  # noqa: E402
from offload.plan import Plan, Workload  # noqa: E402
from offload.prospect import Prospect  # noqa: E402


def main(spec: Spec) -> Timing:
    """Run it here."""
    ids = torch.tensor([[int(word) for word in Path(spec.tokens).read_text(encoding="utf-8").split()]])
    run = _run_ours if spec.engine == "ours" else _run_theirs
    return run(spec, ids)


def _run_theirs(spec: Spec, ids: Tensor) -> Timing:
    from transformers import AutoModelForCausalLM  # and its hundreds of names: not in runs of ours

    from offload.bench.accelerated import accelerated

    model: Any
    if spec.engine == "accelerate":
        assert spec.device_memory is not None, "a peer is given what we are"
        model = accelerated(spec.model, spec.device, spec.device_memory, spec.folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(spec.model, dtype="auto")
        model = model.to(spec.device)
    return time_plain_steps(model, spec.prompt, ids.to(spec.device))


def time_plain_steps(model: Any, prompt: int, ids: Tensor) -> Timing:
    """Given tokens [1, tokens] through a model without tiers: the first ``prompt`` at once, then one by one."""

    def step(tokens: Tensor, cache: Any) -> Any:
        return model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values

    with torch.inference_mode():
        start = time.perf_counter()
        cache = step(ids[:, :prompt], None)
        finish(ids)
        prefill_s = time.perf_counter() - start
        steps = ids[:, prompt:]
        for place in range(steps.shape[1]):
            if place == WARM_STEPS:
                finish(ids)
                start = time.perf_counter()
            cache = step(steps[:, place : place + 1], cache)
        finish(ids)
    step_s = (time.perf_counter() - start) / (steps.shape[1] - WARM_STEPS)
    return Timing(prefill_s, step_s, peak_rss_nbytes())


def finish(tokens: Tensor) -> None:
    """Wait until the device of ``tokens`` has done what it was told."""
    if tokens.is_cuda:
        torch.cuda.synchronize(tokens.device)


def _run_ours(spec: Spec, ids: Tensor) -> Timing:
    config = RunConfig(
        device=spec.device,
        device_memory=spec.device_memory,
        host_memory=spec.host_memory,
        nvme_dir=Path(spec.folder),
        policy=spec.policy,
        predictor=spec.predictor,
        miss_precision=spec.miss_precision,
    )
    workload = Workload(1, spec.prompt, ids.shape[1] - spec.prompt)

    def use(model: OffloadedModel) -> Timing:
        return time_steps(model, spec.prompt, ids.to(spec.device))

    timing, _ = with_tiers(Path(spec.model), config, workload, use, change=_slots(spec.expert_slots))
    return timing


def _slots(wanted: int | None) -> Callable[[Prospect, Plan], Plan]:
    def change(_: Prospect, plan: Plan) -> Plan:
        return plan if wanted is None else replace(plan, expert_slots=wanted)

    return change


def time_steps(model: OffloadedModel, prompt: int, ids: Tensor) -> Timing:
    """As ``time_plain_steps``, with what tiers, links and predictors have to tell."""
    runtime = model.runtime
    assert runtime.experts is not None, "a benchmark of experts"
    stats = runtime.experts.manager.stats
    cache = model.new_cache()
    with torch.inference_mode():
        begin = Reading.of(runtime)
        chunk = runtime.prefill_chunk_tokens or prompt
        for piece in ids[:, :prompt].split(chunk, dim=1):
            model(input_ids=piece, past_key_values=cache, logits_to_keep=1)
        finish(ids)
        prefilled = Reading.of(runtime)
        steps = ids[:, prompt:]
        for place in range(steps.shape[1]):
            if place == WARM_STEPS:
                finish(ids)
                start, before, decided = Reading.of(runtime), replace(stats), runtime.experts.decision_s
            model(input_ids=steps[:, place : place + 1], past_key_values=cache, logits_to_keep=1)
        finish(ids)
    count = steps.shape[1] - WARM_STEPS
    stretch = Stretch(start, Reading.of(runtime), count)
    cache.close()
    return Timing(
        prefill_s=prefilled.time_s - begin.time_s,
        step_s=stretch.seconds / count,
        peak_rss_nbytes=peak_rss_nbytes(),
        prefill_nbytes=Stretch(begin, prefilled, 1).nbytes("nvme->device"),
        nbytes_per_step=stretch.nbytes("nvme->device") / count,
        host_nbytes_per_step=stretch.nbytes("host->device") / count,
        stall_s_per_step=stretch.stall_s / count,
        decision_s_per_step=(runtime.experts.decision_s - decided) / count,
        hits=stats.hits - before.hits,
        pending_hits=stats.pending_hits - before.pending_hits,
        misses=stats.misses - before.misses,
        expert_slots=runtime.experts.pool.num_slots,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(main(Spec(**json.loads(sys.argv[1]))))))  # noqa: T201 - the answer
