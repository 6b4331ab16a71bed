"""What whole models take more than the sum of their parts: decoders of random weights, run and replayed.

Matrices are multiplied more slowly among the small operations of a pass than one after the other, tall ones such as a
head's more so, and choosing among many tokens takes longer than among few. What a step of such a decoder takes more
than its replay is put down to the products of its modules: of each dtype there is a decoder of another architecture.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from offload.bench.generation import generate_timed, with_tiers
from offload.config import RunConfig
from offload.offloaded_model import OffloadedModel
from offload.plan import Plan, Workload
from offload.prospect import Prospect
from offload.simulation.generation import model_shape, placement_shape, work_shape
from offload.speed.models import decoder_sizes, folder_in, save_model
from simulators.generation_costs import GenerationCosts
from simulators.generation_replay import replay_generation
from simulators.generation_shape import ModelShape, PlacementShape
from simulators.profile import HardwareProfile
from simulators.runtime_profile import RuntimeProfile, Table

_MOST = 2.0
"""Times what a product takes by itself. Outside of one and this it was not the model that was measured."""


@dataclass(frozen=True, slots=True)
class WholeSizes:
    """Of both decoders; ``hidden`` is that of the one in float32, and of the one in bfloat16, which is read sooner."""

    layers: int = 8
    hidden: tuple[int, int] = (768, 1280)
    vocabulary: int = 32768
    prompt: int = 32
    steps: int = 16
    repeats: int = 7


def measure_whole(profile: HardwareProfile, directory: Path | None, sizes: WholeSizes) -> RuntimeProfile:
    """``profile.runtime`` with products as fast as whole models show them to be. Raises as ``offload.load``.

    The decoders take 0.8 GB below ``directory``, or where temporary files go, until this returns.
    """
    found = profile.runtime or RuntimeProfile()
    with folder_in(directory) as folder:
        for dtype, path in (("float32", _llama(folder, sizes)), ("bfloat16", _qwen(folder, sizes))):
            slower = _slower(replace(profile, runtime=found), path, sizes)
            found = _with_slower(found, dtype, slower)
    return found


def _slower(profile: HardwareProfile, path: Path, sizes: WholeSizes) -> float:
    """How many times as long as they were measured to take the products of a model take."""
    workload, shapes = Workload(1, sizes.prompt, sizes.steps + 1), list[tuple[ModelShape, PlacementShape]]()
    prompt = list(range(sizes.prompt))

    def change(prospect: Prospect, plan: Plan) -> Plan:
        shapes.append((model_shape(prospect, plan), placement_shape(prospect, plan, RunConfig(), workload)))
        return plan

    def use(model: OffloadedModel) -> float:
        return statistics.median(generate_timed(model, prompt, sizes.steps + 1).step_s for _ in range(sizes.repeats))

    took_s, _ = with_tiers(path, RunConfig(), workload, use, change=change)
    ((model, placement),) = shapes
    replayed = replay_generation(model, placement, work_shape(workload), profile)
    costs = GenerationCosts(profile, model.dtype)
    products_s = sum(costs.products_s(layer.group.products, 1) for layer in model.layers)
    if "vector_products" in _tables(model.dtype):
        products_s += sum(costs.products_s(piece.products, 1, by_vector=True) for piece in model.head)
    more_s = took_s - replayed.decode_s / replayed.decode_steps
    return min(_MOST, max(1.0, 1 + more_s / products_s))


def _tables(dtype: str) -> tuple[str, ...]:
    """Those of the kernel that modules multiply with: for bfloat16 the head and experts have another one."""
    return ("products", "vector_products") if dtype == "float32" else ("products",)


def _with_slower(found: RuntimeProfile, dtype: str, slower: float) -> RuntimeProfile:
    tables: dict[str, Any] = {}
    for name in _tables(dtype):
        given: Mapping[str, Table] = getattr(found, name)
        tables[name] = {**given, dtype: tuple((nbytes, rate / slower) for nbytes, rate in given[dtype])}
    return replace(found, **tables)


def _llama(folder: Path, sizes: WholeSizes) -> Path:
    return _decoder(
        folder / "whole-llama", sizes.hidden[0], sizes, lambda given: LlamaForCausalLM(LlamaConfig(**given))
    )


def _qwen(folder: Path, sizes: WholeSizes) -> Path:
    def make(given: dict[str, Any]) -> Any:
        model: Any = Qwen3ForCausalLM(Qwen3Config(**given, head_dim=64))
        return model.to(torch.bfloat16)

    return _decoder(folder / "whole-qwen", sizes.hidden[1], sizes, make)


def _decoder(path: Path, hidden: int, sizes: WholeSizes, make: Callable[[dict[str, Any]], Any]) -> Path:
    given = {**decoder_sizes(hidden), "vocab_size": sizes.vocabulary, "num_hidden_layers": sizes.layers}
    return save_model(make(given), path)
