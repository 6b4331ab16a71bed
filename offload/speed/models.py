"""Small models that the runtime is timed on: what a layer, a streamed group, an expert take beside their products.

Not tiny ones: Python runs slower where weights have passed through the caches, and so they are too large for those.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.utils import logging

from offload.bench.generation import generate_timed, with_tiers
from offload.config import RunConfig
from offload.offloaded_model import OffloadedModel
from offload.plan import Plan, Workload
from offload.prospect import Prospect, open_prospect
from offload.simulation.generation import matrices_of
from offload.speed.products import product_tables
from simulators.generation_costs import GenerationCosts
from simulators.profile import HardwareProfile
from simulators.runtime_profile import RuntimeProfile

_PROMPT = list(range(8))
_SLOTS = 3
_NEAR_NBYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is timed: ``layers`` of the dense models, few and many, and of the mixtures; decode steps of each run.

    Of the mixtures' experts a token visits ``visited``, few and many.
    """

    layers: tuple[int, int] = (2, 20)
    mixed_layers: int = 12
    visited: tuple[int, int] = (2, 6)
    hidden: int = 512
    steps: int = 16
    repeats: int = 3
    product_s: float = 0.03


def measure_models(profile: HardwareProfile, directory: Path | None, sizes: Sizes) -> RuntimeProfile:
    """``profile.runtime`` with what models take; products are known already. Raises as ``offload.load``.

    The models take half a gigabyte below ``directory``, or where temporary files go, until this returns.
    """
    with folder_in(directory) as folder:
        measurement = _Measurement(profile, folder, sizes)
        return measurement.of_mixtures(measurement.of_dense(profile.runtime or RuntimeProfile()))


@contextmanager
def folder_in(directory: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards, and so is ``directory`` if it was not there before."""
    is_new = directory is not None and not directory.exists()
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix="offload-doctor-") as folder:
            yield Path(folder)
    finally:
        if is_new and directory is not None:
            with suppress(OSError):
                directory.rmdir()


@contextmanager
def _no_bars() -> Iterator[None]:
    """Nobody wants to see how far the writing of a model is that he knows nothing of."""
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


class _Step(NamedTuple):
    """A decode step: the seconds in which nobody waited, and the rate of the drive while it was read."""

    busy_s: float
    bytes_per_s: float


class _Measurement:
    def __init__(self, profile: HardwareProfile, folder: Path, sizes: Sizes) -> None:
        self._profile, self._folder, self._sizes = profile, folder, sizes

    def of_dense(self, found: RuntimeProfile) -> RuntimeProfile:
        """Steps of few layers and of many, of streamed layers that are all there, and of such as are not."""
        few, many = self._sizes.layers
        small, large = self._dense(few), self._dense(many)
        small_s, large_s = self._time(small).busy_s, self._time(large).busy_s
        layer_s = (large_s - small_s) / (many - few) - self._products_s(large, "layer")
        # What caches hold of the few is read faster than from memory.
        near = self._near(found)
        in_layers_s = few * (layer_s + self._products_s(small, "layer", near))
        step_s = small_s - in_layers_s - self._products_s(small, "head", near)
        hooked_s = self._time(large, _streamed(many)).busy_s
        streamed = self._time(large, _streamed(_SLOTS))
        return replace(
            found,
            layer_s=max(0.0, layer_s),
            step_s=max(0.0, step_s),
            group_s=max(0.0, hooked_s - large_s) / many,
            busy_share=min(1.0, hooked_s / streamed.busy_s),
            stream_bytes_per_s=streamed.bytes_per_s,
        )

    def of_mixtures(self, found: RuntimeProfile) -> RuntimeProfile:
        """Steps in which a token visits few experts, and many."""
        layers, (few, many) = self._sizes.mixed_layers, self._sizes.visited
        small, large = self._mixture(few), self._mixture(many)
        small_s, large_s = self._time(small).busy_s, self._time(large).busy_s
        products_s = self._products_s(small, "expert")
        expert_s = (large_s - small_s) / (layers * (many - few)) - products_s
        layer_s = (small_s - found.step_s - self._products_s(small, "head")) / layers - few * (expert_s + products_s)
        moe_layer_s = layer_s - found.layer_s - self._products_s(small, "layer")
        return replace(found, expert_s=max(0.0, expert_s), moe_layer_s=max(0.0, moe_layer_s))

    def _time(self, model: Path, change: Callable[[Prospect, Plan], Plan] | None = None) -> "_Step":
        """Of some generations, the one in the middle."""

        def use(offloaded: OffloadedModel) -> list[_Step]:
            steps = []
            for _ in range(self._sizes.repeats):
                stretch = generate_timed(offloaded, _PROMPT, self._sizes.steps + 1).stretch
                assert stretch is not None, "a model with tiers"
                rate = stretch.nbytes("nvme->device") / max(stretch.busy_s("nvme->device"), 1e-9)
                steps.append(_Step((stretch.seconds - stretch.stall_s) / stretch.passes, rate))
            return sorted(steps)

        workload = Workload(1, len(_PROMPT), self._sizes.steps + 1)
        steps, _ = with_tiers(model, RunConfig(), workload, use, change=change)
        return steps[len(steps) // 2]

    def _near(self, found: RuntimeProfile) -> HardwareProfile:
        """The profile of matrices that together are as small as the smallest model."""
        by_module, by_vector = product_tables(self._sizes.product_s, _NEAR_NBYTES)
        return replace(self._profile, runtime=replace(found, products=by_module, vector_products=by_vector))

    def _products_s(self, model: Path, kind: str, profile: HardwareProfile | None = None) -> float:
        """Of the products of one group of a kind."""
        prospect = open_prospect(model)
        prospect.source.close()
        group = next(group for group in prospect.source.groups if group.kind == kind)
        costs = GenerationCosts(profile or self._profile, prospect.sizes.dtype)
        return costs.products_s(matrices_of(group), 1, by_vector=kind != "layer")

    def _dense(self, layers: int) -> Path:
        return save_dense(self._folder, layers, self._sizes.hidden)

    def _mixture(self, visited: int) -> Path:
        hidden, layers = self._sizes.hidden, self._sizes.mixed_layers
        sizes: dict[str, Any] = {
            **_common(hidden),
            "num_hidden_layers": layers,
            "num_experts": 8,
            "num_experts_per_tok": visited,
            "moe_intermediate_size": hidden * 11 // 8,
            "head_dim": 64,
        }
        model: Any = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes))
        return _save(model.to(torch.bfloat16), self._folder / f"mixture-{visited}")


def save_dense(folder: Path, layers: int, hidden: int) -> Path:
    """A dense model of random weights in float32."""
    config = LlamaConfig(**_common(hidden), num_hidden_layers=layers, max_position_embeddings=8192)
    return _save(LlamaForCausalLM(config), folder / f"dense-{layers}")


def _common(hidden: int) -> dict[str, Any]:
    return {
        "vocab_size": 2048,
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 128,
        "eos_token_id": None,
        "tie_word_embeddings": True,
    }


def _save(model: Any, path: Path) -> Path:
    with _no_bars():
        model.save_pretrained(path)
    return path


def _streamed(slots: int) -> Callable[[Prospect, Plan], Plan]:
    """Every layer through so many staging slots."""

    def change(prospect: Prospect, plan: Plan) -> Plan:
        layers = tuple(name for name in plan.resident if name in prospect.sizes.layer_names)
        stay = tuple(name for name in plan.resident if name not in layers)
        return replace(plan, resident=stay, streamed=layers, staging_slots=slots)

    return change
