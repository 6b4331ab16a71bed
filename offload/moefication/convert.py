"""From a dense checkpoint to a mixture of experts, with figures on text that had no part in it."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from offload.checkpoint.safetensors_dir import SINGLE_NAME, SafetensorsDir
from offload.checkpoint.safetensors_writer import write_safetensors
from offload.moefication.architecture import moe_config, read_dense
from offload.moefication.calibrate import Advance, calibrate, layers_of
from offload.moefication.measure import perplexity, routing_watched
from offload.moefication.refit import refit
from offload.moefication.shape import MoeShape, choose_shape
from offload.moefication.text import read_corpus
from offload.moefication.tokens import Windows, make_windows, open_tokenizer
from offload.moefication.write import MoeCheckpoint
from tiers.errors import ModelError
from tiers.packed_store import is_packed_store
from tiers.partial_directory import PartialDirectory

_EQUAL: Final = 1e-6
_EQUAL_F16: Final = 1e-2
"""Spread of the logits of routers that are to choose and not to weigh; half precision has no smaller weights."""


@dataclass(frozen=True, slots=True)
class MoeOptions:
    """How to convert. ``shared_neurons`` None is about a third of the layer's.

    ``text`` is a file to use instead of what comes with Python. ``distill_tokens`` 0 leaves the weights of neurons as
    they are: with every expert active the model is the dense one. Tokens and not minutes, so that the machine and its
    load have no say in the result.
    """

    experts: int = 32
    top_k: int = 8
    shared_neurons: int | None = None
    text: Path | None = None
    calibration_tokens: int = 16384
    distill_tokens: int = 65536
    held_out_tokens: int = 8192
    seed: int = 0


@dataclass(frozen=True, slots=True)
class MoeResult:
    """What came out. Perplexities are of held-out text; ``active_share`` counts neurons of a feed-forward layer."""

    perplexity_dense: float
    perplexity: float
    active_share: float
    overlap_next_token: float
    load_skew: float
    experts: int
    top_k: int
    shared_neurons: int
    expert_neurons: int
    calibration_tokens: int
    distill_tokens: int
    held_out_tokens: int
    held_out_window: int
    text: str
    seed: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return asdict(self)


def convert_to_moe(
    model: Path,
    out: Path,
    options: MoeOptions | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> MoeResult:
    """Write a mixture of experts made from the dense checkpoint ``model`` to ``out``, which must not exist.

    Holds the model once in float32, and what ``calibrate`` and ``refit`` say. The same options give the same weights on
    the same machine with as many threads. ``progress`` is told tokens worked on, and in all. Raises ModelError,
    InvalidOptionError, DiskFullError, TierBusyError.
    """
    start = time.perf_counter()
    options = options or MoeOptions()
    if out.exists():
        raise ModelError(f"{out}: exists; remove it or name another directory")
    if model.suffix == ".gguf" or is_packed_store(model):
        raise ModelError(f"{model}: only a Hugging Face directory can be converted; give the one that it was made from")
    config = read_dense(model)
    shape = choose_shape(
        config.intermediate_size, experts=options.experts, top_k=options.top_k, shared=options.shared_neurons
    )
    with closing(SafetensorsDir(model)) as source:
        corpus = read_corpus(options.text, with_more=options.distill_tokens > options.calibration_tokens)
        windows = make_windows(
            open_tokenizer(model),
            corpus,
            calibration_tokens=options.calibration_tokens,
            distill_tokens=options.distill_tokens,
            seed=options.seed,
            held_out_tokens=options.held_out_tokens,
            longest=config.max_position_embeddings,
        )
        with PartialDirectory(out) as partial:
            partial.require_space(sum(info.nbytes for info in source.tensors.values()))
            is_half = any(info.dtype == "F16" for info in source.tensors.values())
            spread = _EQUAL_F16 if is_half else _EQUAL
            mixture, figures = _convert(model, windows, shape, spread, options.seed, progress)
            _write(source, moe_config(config, shape), mixture, partial)
    return MoeResult(
        **figures,
        active_share=shape.active_share,
        experts=shape.experts,
        top_k=shape.top_k,
        shared_neurons=shape.shared,
        expert_neurons=shape.expert_neurons,
        calibration_tokens=windows.calibration.numel(),
        distill_tokens=windows.distillation.numel(),
        held_out_tokens=windows.held_out.numel(),
        held_out_window=windows.held_out.shape[1],
        text=corpus.source,
        seed=options.seed,
        seconds=time.perf_counter() - start,
    )


def _convert(
    path: Path,
    windows: Windows,
    shape: MoeShape,
    spread: float,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[PreTrainedModel, dict[str, float]]:
    """The model with mixtures in place of its feed-forward layers, and its figures."""
    held_out = windows.held_out
    work = 2 * windows.calibration.numel() + windows.distillation.numel() + 2 * held_out.numel()
    advance = _counter(work, progress)
    # Scaled dot-product attention is causal without a mask, which the refit relies on.
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
    model.eval()
    perplexity_dense = perplexity(model, held_out, advance)
    calibrate(model, windows.calibration, shape, spread=spread, seed=seed, advance=advance)
    if len(windows.distillation):
        refit(model, windows.distillation, advance)
    with routing_watched(model) as routing:
        figures = {"perplexity_dense": perplexity_dense, "perplexity": perplexity(model, held_out, advance)}
    return model, figures | asdict(routing())


def _write(source: SafetensorsDir, config: PreTrainedConfig, model: PreTrainedModel, partial: PartialDirectory) -> None:
    checkpoint = MoeCheckpoint(source, config, {i: layer.mlp for i, layer in enumerate(layers_of(model))})
    with partial.disk_errors(sum(info.nbytes for info in checkpoint.tensors.values())):
        checkpoint.write_model_files(partial.path)
        write_safetensors(checkpoint, partial.path / SINGLE_NAME)


def _counter(total: int, progress: Callable[[int, int], None] | None) -> Advance:
    done = 0

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        if progress is not None:
            progress(done, total)

    return advance
