"""Runs an offloaded model over text and records what its routers choose: what ``offload trace record`` does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.checkpoint.source import model_fingerprint
from offload.config import RunConfig
from offload.doctor import load_profile
from offload.experts.bind import experts_modules, gate_weights
from offload.experts.passes import announce_passes
from offload.loader import load_model
from offload.numbers import has_tokenizer, parse_ids
from offload.offloaded_model import OffloadedModel
from offload.plan import Workload
from offload.prospect import Prospect, open_prospect, plan_for
from offload.sizes import format_size
from offload.tokens import check_ids, first_tokens, load_tokenizer
from offload.traces.recorder import RoutingRecorder
from simulators.expert_trace import ExpertTrace
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError, ModelError

MOST_NBYTES = 2**30
"""A trace is held in memory until its end. With gate inputs, a token through 32 layers of 4,096 takes 256 KiB of it,
without them and with two experts a layer 256 bytes."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Course:
    """What is run: ``requests`` prompts, each of them followed by decode steps of one token.

    The prompts are pieces of a text, one behind the other. With ``forced`` a piece is longer by ``new_tokens`` and the
    decode steps take those, so that they follow real text; else they take what the model makes of the prompt.
    """

    requests: int
    prompt_tokens: int
    new_tokens: int
    forced: bool = False

    @property
    def piece_tokens(self) -> int:
        """Tokens of text that a request takes."""
        return self.prompt_tokens + (self.new_tokens if self.forced else 0)

    @property
    def num_tokens(self) -> int:
        """Tokens that pass through the model in all."""
        return self.requests * (self.prompt_tokens + self.new_tokens)


def record_trace(
    config: RunConfig,
    model: Path,
    tokens: Sequence[int],
    course: Course,
    *,
    gate_inputs: bool = False,
    progress: Progress | None = None,
) -> ExpertTrace:
    """The routing of ``course`` through ``model`` within a budget, ``config.batch`` requests at a time.

    ``tokens`` are those that ``text_tokens`` gives, or others. ``gate_inputs`` records what the gates are given too,
    hidden state by hidden state; ``progress`` is told of tokens. Raises as ``offload.load``, ModelError for a model
    without experts, InvalidOptionError for too few tokens or a trace too large.
    """
    pieces = _pieces(tokens, course)
    prospect = open_prospect(model, config)
    try:
        layers = _sparse_layers(prospect)
        check_ids(pieces.reshape(-1).tolist(), prospect.config.vocab_size)
        _check_size(prospect, len(layers), course, gate_inputs=gate_inputs)
        workload = Workload(config.batch, course.prompt_tokens, course.new_tokens)
        profile = load_profile(config.device)
        plan = plan_for(prospect, config, workload, profile)
        offloaded = load_model(prospect, plan, config, workload, profile=profile)
    except BaseException:
        prospect.source.close()
        raise
    try:
        recorder = RoutingRecorder(layers, course.num_tokens, gate_inputs=gate_inputs)
        assert offloaded.runtime.experts is not None, "there are experts"
        offloaded.runtime.experts.observers.append(recorder)
        announce_passes(offloaded, recorder.begin)
        _run(offloaded, pieces, course, config.batch, progress)
        num_experts = max(module.num_experts for _, module in experts_modules(offloaded).values())
        gates = _gates(offloaded if gate_inputs else None, layers, num_experts)
        return recorder.trace(model_fingerprint(model), num_experts, gates)
    finally:
        offloaded.close()


def _run(
    model: OffloadedModel, pieces: NDArray[np.int64], course: Course, batch: int, progress: Progress | None
) -> None:
    done = 0
    with torch.inference_mode():
        for rows in torch.from_numpy(pieces).split(batch):
            for num_tokens in _passes(model, rows, course):
                done += num_tokens
                if progress:
                    progress(done, course.num_tokens)


def _passes(model: OffloadedModel, rows: Tensor, course: Course) -> Iterator[int]:
    """Prefill and decode of ``rows`` [sequences, piece]; gives out the tokens of each pass when it is over."""
    cache = model.new_cache()
    try:
        prompts = rows[:, : course.prompt_tokens]
        logits = torch.empty(0)
        for part in prompts.split(model.runtime.prefill_chunk_tokens or course.prompt_tokens, dim=1):
            logits = model(input_ids=part, past_key_values=cache, logits_to_keep=1).logits
            yield part.numel()
        for step in range(course.new_tokens):
            place = course.prompt_tokens + step
            tokens = rows[:, place : place + 1] if course.forced else logits[:, -1].argmax(-1, keepdim=True)
            logits = model(input_ids=tokens, past_key_values=cache, logits_to_keep=1).logits
            yield tokens.numel()
    finally:
        cache.close()


def text_tokens(model: Path, text: str, course: Course) -> list[int]:
    """As many tokens of a text as a course takes, if it has so many.

    It holds token ids in place of words where the model comes without a tokenizer. Raises InvalidOptionError.
    """
    if has_tokenizer(model):
        return first_tokens(load_tokenizer(model), text, course.requests * course.piece_tokens)
    return parse_ids("--prompt-file", text)


def _pieces(ids: Sequence[int], course: Course) -> NDArray[np.int64]:
    """The tokens as [requests, piece]."""
    wanted = course.requests * course.piece_tokens
    if len(ids) < wanted:
        raise InvalidOptionError(
            f"--prompt-file: the text has {len(ids)} tokens, {course.requests} requests of {course.piece_tokens} take "
            f"{wanted}; give a longer text or ask for fewer"
        )
    return np.array(ids[:wanted], np.int64).reshape(course.requests, course.piece_tokens)


def _sparse_layers(prospect: Prospect) -> list[int]:
    layers = {group.key.layer for group in prospect.source.groups if isinstance(group.key, ExpertKey)}
    if not layers:
        kind = prospect.config.model_type
        raise ModelError(f"{prospect.path}: '{kind}' has no routed experts; name a mixture of experts")
    return sorted(layers)


def _check_size(prospect: Prospect, num_layers: int, course: Course, *, gate_inputs: bool) -> None:
    row = 4 * prospect.sizes.experts_per_layer_and_token + (2 * prospect.config.hidden_size if gate_inputs else 0)
    nbytes = course.num_tokens * num_layers * row
    if nbytes > MOST_NBYTES:
        cure = "leave --gate-inputs out or record fewer tokens" if gate_inputs else "record fewer tokens"
        size, most = format_size(nbytes), format_size(MOST_NBYTES)
        raise InvalidOptionError(f"{course.num_tokens} tokens make a trace of {size}, more than {most}; {cure}")


def _gates(model: OffloadedModel | None, layers: Sequence[int], num_experts: int) -> NDArray[np.float32]:
    """[layers, experts, hidden], the last of which is 0 where no gates are wanted or not all can be read."""
    found = {} if model is None else gate_weights(model)
    if len({gate.shape for gate in found.values()}) != 1:
        return np.empty((len(layers), num_experts, 0), np.float32)
    return np.stack([found[layer] for layer in layers])
