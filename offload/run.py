"""One generation from prompt to figures: what ``offload run`` does."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from offload.config import RunConfig
from offload.doctor import load_profile
from offload.loader import load_model
from offload.meter import Reading, Stretch
from offload.numbers import Numbers, has_tokenizer
from offload.offloaded_model import OffloadedModel
from offload.peak_memory import peak_rss_nbytes
from offload.plan import Plan, Workload
from offload.prospect import open_prospect, plan_for
from offload.tokens import check_ids, first_tokens, load_tokenizer
from offload.trace import record_modules, write_trace
from simulators.profile import HardwareProfile
from tiers.errors import InvalidOptionError
from tiers.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is. ``tiers`` maps a tier to the bytes in use and the bytes that it may use."""

    phase: str
    new_tokens: int
    max_new_tokens: int
    elapsed_s: float
    tokens_per_s: float
    tiers: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came out and what it cost. Times are seconds; ``roofline_s`` and ``efficiency`` are of the decode steps."""

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
    stall_s: float
    roofline_s: float
    efficiency: float
    peak_rss_bytes: int
    placement: dict[str, dict[str, object]]
    predicted_tokens_per_s: float
    bottleneck: str

    def as_json(self) -> dict[str, Any]:
        """The keys of the command line's contract; a batch of one is unwrapped."""
        data = asdict(self)
        if len(self.token_ids) == 1:
            data["token_ids"], data["text"] = self.token_ids[0], self.text[0]
        return data


def run(
    config: RunConfig,
    model: Path,
    *,
    prompt: str | None = None,
    prompt_ids: list[int] | None = None,
    prompt_tokens: int | None = None,
    max_new_tokens: int = 128,
    on_text: Callable[[str], None] | None = None,
    on_status: Callable[[Status], None] | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    trace_out: Path | None = None,
    profile: HardwareProfile | None = None,
) -> RunResult:
    """Generate greedily from one prompt, ``config.batch`` times side by side, and measure.

    ``prompt_tokens`` cuts the prompt to its first tokens. Raises as ``offload.load``.
    """
    if max_new_tokens < 1:
        raise InvalidOptionError(f"new tokens {max_new_tokens}: must be at least 1")
    profile = profile or load_profile(config.device)
    tokenizer = Numbers() if prompt is None and not has_tokenizer(model) else load_tokenizer(model)
    ids = _prompt_ids(tokenizer, prompt, prompt_ids, prompt_tokens)
    workload = Workload(config.batch, len(ids), max_new_tokens)
    timeline = Timeline() if trace_out else None
    start = time.perf_counter()
    prospect = open_prospect(model, config)
    try:
        check_ids(ids, prospect.config.vocab_size)
        plan = plan_for(prospect, config, workload, profile)
        if on_plan:
            on_plan(plan)
        offloaded = load_model(prospect, plan, config, workload, timeline=timeline, progress=progress)
    except BaseException:
        prospect.source.close()
        raise
    try:
        if timeline:
            record_modules(_stages(offloaded), timeline)
        load_s = time.perf_counter() - start
        observer = _Observer(offloaded, tokenizer, max_new_tokens, on_text, on_status)
        sequences = _generate(offloaded, ids, config.batch, max_new_tokens, observer)
        result = _summarise(offloaded, tokenizer, sequences, ids, observer, load_s, profile)
    finally:
        offloaded.close()
    if timeline and trace_out:
        write_trace(timeline, trace_out)
    return result


class _Observer(BaseStreamer):
    """Reads the counters when tokens appear; ``generate`` calls ``put`` with the prompt first, then for each step."""

    def __init__(
        self,
        model: OffloadedModel,
        tokenizer: PreTrainedTokenizerBase | Numbers,
        max_new_tokens: int,
        on_text: Callable[[str], None] | None,
        on_status: Callable[[Status], None] | None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._on_text = on_text
        self._on_status = on_status
        self._shown = ""
        self._ids: list[int] = []
        self.readings: list[Reading] = []
        """At the start, at the first token, and at the latest one."""

    def put(self, value: Tensor) -> None:
        self.readings = [*self.readings[:2], Reading.of(self._model.runtime)]
        if len(self.readings) > 1:
            self._ids.append(int(value.reshape(-1)[0]))
            self._show_text()
        self._show_status("decode" if len(self.readings) > 1 else "prefill")

    def end(self) -> None:
        if self._on_text:
            self._on_text(self._decoded()[len(self._shown) :])

    def _show_text(self) -> None:
        if not self._on_text:
            return
        text = self._decoded()
        if not text.endswith("\ufffd"):  # a character may take several tokens
            self._on_text(text[len(self._shown) :])
            self._shown = text

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True))

    def _show_status(self, phase: str) -> None:
        if not self._on_status:
            return
        runtime = self._model.runtime
        now = self.readings[-1].time_s
        first = self.readings[min(1, len(self.readings) - 1)].time_s
        steps = max(0, len(self._ids) - 1)
        self._on_status(
            Status(
                phase,
                len(self._ids),
                self._max_new_tokens,
                now - self.readings[0].time_s,
                steps / (now - first) if steps else 0.0,
                runtime.tier_occupancy(),
            )
        )


def _generate(
    model: OffloadedModel, ids: list[int], batch: int, max_new_tokens: int, observer: _Observer
) -> list[list[int]]:
    inputs = torch.tensor([ids] * batch, device=model.device)
    with torch.inference_mode():
        output = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            streamer=observer,
        )
    return [row[len(ids) :] for row in output.tolist()]


def _summarise(
    model: OffloadedModel,
    tokenizer: PreTrainedTokenizerBase | Numbers,
    sequences: list[list[int]],
    ids: list[int],
    observer: _Observer,
    load_s: float,
    profile: HardwareProfile,
) -> RunResult:
    runtime = model.runtime
    begin, first = observer.readings[0], observer.readings[1]
    last = observer.readings[-1]
    steps = max(len(row) for row in sequences) - 1
    chunks = -(-len(ids) // runtime.prefill_chunk_tokens) if runtime.prefill_chunk_tokens else 1
    whole, decode = Stretch(begin, last, chunks + steps), Stretch(first, last, steps)
    roofline_s = decode.roofline_s(profile)
    return RunResult(
        token_ids=sequences,
        text=[str(tokenizer.decode(row, skip_special_tokens=True)) for row in sequences],
        prompt_tokens=len(ids),
        load_s=load_s,
        prefill_s=first.time_s - begin.time_s,
        decode_s=decode.seconds,
        decode_tokens_per_s=steps * len(sequences) / decode.seconds if steps else 0.0,
        tiers=runtime.tier_usage(),
        links={name: {"bytes": whole.nbytes(name), "busy_s": whole.busy_s(name)} for name in last.link_nbytes},
        hit_ratio=whole.hit_ratio(runtime),
        stall_s=whole.stall_s,
        roofline_s=roofline_s,
        efficiency=roofline_s / decode.seconds if steps else 1.0,
        peak_rss_bytes=peak_rss_nbytes(),
        placement=runtime.plan.placement(),
        predicted_tokens_per_s=runtime.plan.predicted_tokens_per_s,
        bottleneck=runtime.plan.bottleneck,
    )


def _prompt_ids(
    tokenizer: PreTrainedTokenizerBase | Numbers, prompt: str | None, prompt_ids: list[int] | None, limit: int | None
) -> list[int]:
    if (prompt is None) == (prompt_ids is None):
        raise InvalidOptionError("give the prompt either as text or as token ids")
    if prompt_ids is not None or isinstance(tokenizer, Numbers):
        ids = list(prompt_ids or ())
    else:
        ids = first_tokens(tokenizer, prompt or "", limit)
    if not ids:
        raise InvalidOptionError("the prompt is empty; give at least one character")
    return ids[:limit]


def _stages(model: OffloadedModel) -> dict[str, torch.nn.Module]:
    """The parts of the model that make up the computation row of a trace."""
    layers = [m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList)]
    decoder = max(layers, key=len)
    stages: dict[str, torch.nn.Module] = {f"layer {i}": layer for i, layer in enumerate(decoder)}
    stages["embedding"], stages["head"] = model.get_input_embeddings(), model.get_output_embeddings()
    return stages
