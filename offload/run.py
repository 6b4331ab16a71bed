"""One generation from prompt to figures: what ``offload run`` does."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from offload.checkpoint.source import model_fingerprint
from offload.config import RunConfig
from offload.doctor import load_profile
from offload.loader import load_model
from offload.meter import Stretch
from offload.numbers import Numbers, has_tokenizer
from offload.offloaded_model import OffloadedModel
from offload.peak_memory import peak_rss_nbytes
from offload.plan import Plan, Workload
from offload.prospect import open_prospect, plan_for
from offload.requests import Requests, Tokenizer, predicted_paths, read_requests
from offload.run_observer import Progress, RunObserver, Status
from offload.tokens import check_ids, load_tokenizer
from offload.trace import record_modules, write_trace
from simulators.activity import timeline_of_spans
from simulators.profile import HardwareProfile
from tiers.errors import InvalidOptionError
from tiers.timeline import Timeline


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came out and what it cost. Times are seconds; ``roofline_s`` and ``efficiency`` are of the decode steps.

    ``low_precision_ratio`` is the share of the visits to experts in which their copy in a lower precision stood in,
    ``experts_per_step`` how many a decode step visits, counted in each layer. ``batches`` says which of several prompts
    ran side by side, by their indices; ``prompt_tokens`` is then the length of the longest. ``attention_error`` is what
    sparse attention in storage missed, see ``AttentionLoss``. ``predicted_without`` names what the prediction leaves
    out: ``csd`` with computational drives, which only ``offload plan`` tries. ``timeline``, where a trace was asked
    for, is what of it fits in some hundred bins, as ``simulators.activity`` tells it.
    """

    token_ids: list[list[int]]
    text: list[str]
    prompt_tokens: int
    load_s: float
    prefill_s: float
    decode_s: float
    decode_tokens_per_s: float
    tiers: dict[str, dict[str, int]]
    links: dict[str, dict[str, float]]
    hit_ratio: float
    low_precision_ratio: float
    stall_s: float
    roofline_s: float
    efficiency: float
    peak_rss_bytes: int
    placement: dict[str, dict[str, object]]
    predicted_tokens_per_s: float
    predicted_without: str | None
    bottleneck: str
    experts_per_step: float
    batches: list[list[int]] | None
    attention_error: float | None
    timeline: dict[str, Any] | None = None
    notes: Sequence[str] = ()
    """What was slower than it could be, and why."""

    def as_json(self) -> dict[str, Any]:
        """The keys of the command line's contract; the answer to one prompt is unwrapped."""
        data = asdict(self)
        if len(self.token_ids) == 1 and self.batches is None:
            data["token_ids"], data["text"] = self.token_ids[0], self.text[0]
        return data


def run(
    config: RunConfig,
    model: Path,
    *,
    prompt: str | None = None,
    prompt_ids: list[int] | None = None,
    prompts: Sequence[str] | None = None,
    prompt_tokens: int | None = None,
    max_new_tokens: int = 128,
    on_text: Callable[[str], None] | None = None,
    on_status: Callable[[Status], None] | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    trace_out: Path | None = None,
    profile: HardwareProfile | None = None,
) -> RunResult:
    """Generate greedily and measure: from one prompt, ``config.batch`` times side by side, or from several ``prompts``.

    Of those, so many run side by side: those that the trained predictor, if ``config`` names one, expects to need the
    same experts. Answers are in the order of the prompts; ``on_text`` is told nothing of them. ``prompt_tokens`` cuts a
    prompt to its first tokens. Raises as ``offload.load``.
    """
    if max_new_tokens < 1:
        raise InvalidOptionError(f"new tokens {max_new_tokens}: must be at least 1")
    profile = profile or load_profile(config.device)
    tokenizer = Numbers() if prompt is None and not has_tokenizer(model) else load_tokenizer(model)
    requests = read_requests(
        tokenizer,
        prompt,
        prompt_ids,
        prompts,
        limit=prompt_tokens,
        batch=config.batch,
        paths=predicted_paths(config.predictor, lambda: model_fingerprint(model)),
    )
    workload = Workload(max(map(len, requests.batches)), requests.longest, max_new_tokens)
    timeline = Timeline() if trace_out else None
    start = time.perf_counter()
    offloaded = _load(config, model, requests, workload, profile, timeline, on_plan, progress)
    try:
        if timeline:
            record_modules(_stages(offloaded), timeline)
        load_s = time.perf_counter() - start
        answers, stretches = _answer(
            offloaded, requests, tokenizer, max_new_tokens, on_text if prompts is None else None, on_status
        )
        result = _summarise(offloaded, tokenizer, requests, answers, stretches, load_s, profile)
    finally:
        offloaded.close()
    if timeline and trace_out:
        write_trace(timeline, trace_out)
        result = replace(result, timeline=timeline_of_spans(_spans(timeline)))
    return result


def _load(
    config: RunConfig,
    model: Path,
    requests: Requests,
    workload: Workload,
    profile: HardwareProfile,
    timeline: Timeline | None,
    on_plan: Callable[[Plan], None] | None,
    progress: Callable[[int, int], None] | None,
) -> OffloadedModel:
    """Planned for ``workload`` and loaded. On failure nothing is left."""
    prospect = open_prospect(model, config, context_tokens=workload.context_tokens)
    try:
        for ids in requests.ids:
            check_ids(ids, prospect.config.vocab_size)
        plan = plan_for(prospect, config, workload, profile)
        if on_plan:
            on_plan(plan)
        return load_model(prospect, plan, config, workload, profile=profile, timeline=timeline, progress=progress)
    except BaseException:
        prospect.source.close()
        raise


def _spans(timeline: Timeline) -> dict[str, list[tuple[float, float]]]:
    rows: dict[str, list[tuple[float, float]]] = {}
    for span in timeline.spans:
        rows.setdefault(span.row, []).append((span.start_s, span.end_s))
    return rows


def _answer(
    model: OffloadedModel,
    requests: Requests,
    tokenizer: Tokenizer,
    max_new_tokens: int,
    on_text: Callable[[str], None] | None,
    on_status: Callable[[Status], None] | None,
) -> tuple[list[list[int]], list[tuple[Stretch, Stretch]]]:
    """The new tokens of every request, and what each batch took: in all, and in its decode steps."""
    answers: list[list[int]] = [[] for _ in requests.ids]
    stretches = []
    for number, members in enumerate(requests.batches):
        progress = Progress(number * max_new_tokens, len(requests.batches) * max_new_tokens)
        observer = RunObserver(model, tokenizer, progress, on_text, on_status)
        rows = _generate(model, requests, members, max_new_tokens, observer)
        for member, row in zip(members, rows, strict=True):
            answers[member] = row
        stretches.append(_stretches(model, requests, members, rows, observer))
    return answers, stretches


def _generate(
    model: OffloadedModel, requests: Requests, members: list[int], max_new_tokens: int, observer: RunObserver
) -> list[list[int]]:
    """The answers of a batch, each up to the token that ends it."""
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else ends or []
    pad = model.generation_config.pad_token_id
    pad = next(iter(ends), 0) if pad is None else pad
    inputs, mask = (tensor.to(model.device) for tensor in requests.inputs(members, pad))
    with torch.inference_mode():
        output = model.generate(
            input_ids=inputs,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            streamer=observer,
        )
    rows = output[:, inputs.shape[1] :].tolist()
    return [row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))] for row in rows]


def _stretches(
    model: OffloadedModel, requests: Requests, members: list[int], rows: list[list[int]], observer: RunObserver
) -> tuple[Stretch, Stretch]:
    """All of a batch, and its decode steps."""
    chunk = model.runtime.prefill_chunk_tokens
    chunks = -(-max(len(requests.ids[i]) for i in members) // chunk) if chunk else 1
    steps = max(map(len, rows)) - 1
    begin, first, last = observer.readings[0], observer.readings[1], observer.readings[-1]
    return Stretch(begin, last, chunks + steps), Stretch(first, last, steps)


def _summarise(
    model: OffloadedModel,
    tokenizer: Tokenizer,
    requests: Requests,
    answers: list[list[int]],
    stretches: list[tuple[Stretch, Stretch]],
    load_s: float,
    profile: HardwareProfile,
) -> RunResult:
    runtime = model.runtime
    batches, decodes = [batch for batch, _ in stretches], [decode for _, decode in stretches]
    whole = Stretch(batches[0].start, batches[-1].end, sum(batch.passes for batch in batches))
    decode_s = sum(decode.seconds for decode in decodes)
    steps = sum(decode.passes for decode in decodes)
    roofline_s = sum(decode.roofline_s(profile) for decode in decodes)
    low = runtime.experts.low_copies if runtime.experts else None
    return RunResult(
        token_ids=answers,
        text=[str(tokenizer.decode(row, skip_special_tokens=True)) for row in answers],
        prompt_tokens=requests.longest,
        load_s=load_s,
        prefill_s=sum(decode.start.time_s - batch.start.time_s for batch, decode in stretches),
        decode_s=decode_s,
        decode_tokens_per_s=sum(len(row) - 1 for row in answers) / decode_s if steps else 0.0,
        tiers=runtime.tier_usage(),
        links={name: {"bytes": whole.nbytes(name), "busy_s": whole.busy_s(name)} for name in whole.end.link_nbytes},
        hit_ratio=whole.hit_ratio(runtime),
        low_precision_ratio=low.num_low / max(1, low.num_visits) if low else 0.0,
        stall_s=whole.stall_s,
        roofline_s=roofline_s,
        efficiency=roofline_s / decode_s if steps else 1.0,
        peak_rss_bytes=peak_rss_nbytes(),
        placement=runtime.plan.placement(),
        predicted_tokens_per_s=runtime.plan.predicted_tokens_per_s,
        predicted_without="csd" if runtime.plan.is_beside_drives else None,
        bottleneck=runtime.plan.bottleneck,
        experts_per_step=sum(decode.experts_used for decode in decodes) / max(1, steps),
        batches=requests.batches if requests.are_many else None,
        attention_error=runtime.drives.attention_error if runtime.drives else None,
        notes=runtime.notes,
    )


def _stages(model: OffloadedModel) -> dict[str, torch.nn.Module]:
    """The parts of the model that make up the computation row of a trace."""
    layers = [m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList)]
    decoder = max(layers, key=len)
    stages: dict[str, torch.nn.Module] = {f"layer {i}": layer for i, layer in enumerate(decoder)}
    stages["embedding"], stages["head"] = model.get_input_embeddings(), model.get_output_embeddings()
    return stages
