"""Small models that the runtime is timed on: what a layer, a streamed group, an expert take beside their products.

What a step takes beyond the products of its model is told by doing these alone, on the very same weights, in turn with
the steps: so it does not matter what of the weights caches hold, and little what others do to the machine meanwhile.
Not tiny ones: Python runs slower where weights have passed through the caches, and so they are too large for those.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from offload.bench.generation import generate_timed, with_tiers
from offload.config import RunConfig
from offload.offloaded_model import OffloadedModel
from offload.plan import Plan, Workload
from offload.prospect import Prospect, open_prospect
from offload.speed.decoders import decoder_sizes, folder_in, save_dense, save_half, save_model, save_wide
from offload.speed.own_products import OwnProducts
from offload.speed.transfers import streaming
from offload.speed.whole import Round, slower, with_slower
from simulators.runtime_profile import RuntimeProfile

T = TypeVar("T")

_PROMPT = list(range(8))
_SLOTS = 3
_WIDER = 3
"""The one mixture than the others."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is timed: ``layers`` of the dense models, few and many, and of the mixtures; decode steps of each run.

    Of the mixtures' experts a token visits ``visited``, few and many. ``whole_layers`` of a wide decoder in float32 and
    of one in bfloat16, ``whole_hidden``, with so large a ``vocabulary`` are held against what all that comes to.
    """

    layers: tuple[int, int] = (2, 20)
    mixed_layers: int = 12
    visited: tuple[int, int] = (2, 6)
    hidden: int = 512
    whole_layers: int = 8
    whole_hidden: tuple[int, int] = (768, 1280)
    vocabulary: int = 32768
    steps: int = 16
    repeats: int = 5


def measure_models(found: RuntimeProfile, directory: Path | None, sizes: Sizes) -> RuntimeProfile:
    """``found`` with what models take. Raises as ``offload.load``.

    The models take about two gigabytes below ``directory``, or where temporary files go, until this returns.
    """
    with folder_in(directory) as folder:
        measurement = _Measurement(folder, sizes)
        return measurement.of_mixtures(measurement.of_dense(found))


class _Measurement:
    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self._folder, self._sizes = folder, sizes

    def of_dense(self, found: RuntimeProfile) -> RuntimeProfile:
        """Steps of few layers and of many, of many while a drive is read, and of many that are streamed: such as are
        all there, and such as come from the drive."""
        few, many = self._sizes.layers
        small, large = self._dense(few), self._dense(many)
        rounds = self._in_turn([small, large, *self._wholes()])
        small_s, large_s = _medians([one.besides_s for one in models] for models in rounds)[:2]
        layer_s = max(0.0, (large_s - small_s) / (many - few))
        for place, dtype in enumerate(("float32", "bfloat16"), 2):
            found = with_slower(found, dtype, slower(rounds, (few, many), place, self._sizes.whole_layers))
        alone_s, reading_s = self._with(large, lambda model: self._beside_reads(model, large))
        busy_share = min(1.0, alone_s / reading_s)
        hooked_s = self._with(large, self._median_step_s, _streamed(many))
        group_s = max(0.0, hooked_s - alone_s) / many
        streamed_s, bytes_per_s = self._with(large, self._streaming, _streamed(_SLOTS))
        return replace(
            found,
            layer_s=layer_s,
            step_s=max(0.0, small_s - few * layer_s),
            group_s=group_s,
            wake_s=max(0.0, (streamed_s - alone_s / busy_share) / many - group_s),
            busy_share=busy_share,
            stream_bytes_per_s=bytes_per_s,
        )

    def of_mixtures(self, found: RuntimeProfile) -> RuntimeProfile:
        """Steps in which a token visits few experts, and many; few small ones, and few large ones."""
        layers, (few, many) = self._sizes.mixed_layers, self._sizes.visited
        narrow, wide = self._sizes.hidden, _WIDER * self._sizes.hidden
        small_s, large_s = self._besides(self._mixture(few, layers, narrow), self._mixture(many, layers, narrow))
        expert_s = max(0.0, (large_s - small_s) / (layers * (many - few)))
        one_s = (small_s - found.step_s) / layers
        less = max(1, layers // _WIDER**2)
        small_s, wide_s = self._besides(self._mixture(few, layers, narrow), self._mixture(few, less, wide))
        other_s = (wide_s - found.step_s) / less
        one_nbytes, other_nbytes = _expert_nbytes(narrow), _expert_nbytes(wide)
        byte_s = max(0.0, (other_s - one_s) / (other_nbytes - one_nbytes))
        moe_layer_s = one_s - few * expert_s - found.layer_s - byte_s * one_nbytes
        return replace(found, expert_s=expert_s, moe_layer_s=max(0.0, moe_layer_s), moe_byte_s=byte_s)

    def _besides(self, small: Path, large: Path) -> tuple[float, float]:
        """What a step of either model takes besides its products, each measured in turn with the other."""
        first, second = _medians([one.besides_s for one in models] for models in self._in_turn([small, large]))
        return first, second

    def _in_turn(self, paths: Sequence[Path]) -> Sequence[Sequence[Round]]:
        """Of each round what every model showed: whatever slows the machine for a while slows all of them."""

        def use_all(models: Sequence[OffloadedModel]) -> Sequence[Sequence[Round]]:
            products = [(model, OwnProducts(model, partial(self._step_s, model))) for model in models]
            return [
                [Round(self._step_s(model), own.seconds(), own.module_share) for model, own in products]
                for _ in range(self._sizes.repeats)
            ]

        def open_next(opened: tuple[OffloadedModel, ...]) -> Sequence[Sequence[Round]]:
            if len(opened) == len(paths):
                return use_all(opened)
            return self._with(paths[len(opened)], lambda model: open_next((*opened, model)))

        return open_next(())

    def _beside_reads(self, model: OffloadedModel, path: Path) -> tuple[float, float]:
        """Seconds of a step, and those while a drive is read."""
        prospect = open_prospect(path)
        try:
            alone, reading = [], []
            for _ in range(self._sizes.repeats):
                alone.append(self._step_s(model))
                with streaming(prospect.source):
                    reading.append(self._step_s(model))
            return statistics.median(alone), statistics.median(reading)
        finally:
            prospect.source.close()

    def _streaming(self, model: OffloadedModel) -> tuple[float, float]:
        """Of steps that the drive is the limit of: seconds in which nobody waited, and bytes per second."""
        busy, rates = [], []
        for _ in range(self._sizes.repeats):
            stretch = generate_timed(model, _PROMPT, self._sizes.steps // 2 + 1).stretch
            assert stretch is not None, "a model with tiers"
            busy.append((stretch.seconds - stretch.stall_s) / stretch.passes)
            rates.append(stretch.nbytes("nvme->device") / max(stretch.busy_s("nvme->device"), 1e-9))
        return statistics.median(busy), statistics.median(rates)

    def _median_step_s(self, model: OffloadedModel) -> float:
        return statistics.median(self._step_s(model) for _ in range(self._sizes.repeats))

    def _step_s(self, model: OffloadedModel) -> float:
        return generate_timed(model, _PROMPT, self._sizes.steps + 1).step_s

    def _with(
        self, model: Path, use: Callable[[OffloadedModel], T], change: Callable[[Prospect, Plan], Plan] | None = None
    ) -> T:
        workload = Workload(1, len(_PROMPT), self._sizes.steps + 1)
        answer, _ = with_tiers(model, RunConfig(), workload, use, change=change)
        return answer

    def _wholes(self) -> Sequence[Path]:
        sizes, (wide, half) = self._sizes, self._sizes.whole_hidden
        return (
            save_wide(self._folder, sizes.whole_layers, wide, sizes.vocabulary),
            save_half(self._folder, sizes.whole_layers, half, sizes.vocabulary),
        )

    def _dense(self, layers: int) -> Path:
        return save_dense(self._folder, layers, self._sizes.hidden)

    def _mixture(self, visited: int, layers: int, hidden: int) -> Path:
        path = self._folder / f"mixture-{visited}-{hidden}"
        sizes: dict[str, Any] = {
            **decoder_sizes(hidden),
            "num_hidden_layers": layers,
            "num_experts": 8,
            "num_experts_per_tok": visited,
            "moe_intermediate_size": _inner(hidden),
            "head_dim": 64,
        }
        if path.exists():
            return path
        model: Any = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes))
        return save_model(model.to(torch.bfloat16), path)


def _medians(rounds: Iterable[Sequence[float]]) -> list[float]:
    """Of each column."""
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _inner(hidden: int) -> int:
    return hidden * 11 // 8


def _expert_nbytes(hidden: int) -> int:
    """Of the mixtures, in bfloat16."""
    return 3 * hidden * _inner(hidden) * 2


def _streamed(slots: int) -> Callable[[Prospect, Plan], Plan]:
    """Every layer through so many staging slots."""

    def change(prospect: Prospect, plan: Plan) -> Plan:
        layers = tuple(name for name in plan.resident if name in prospect.sizes.layer_names)
        stay = tuple(name for name in plan.resident if name not in layers)
        return replace(plan, resident=stay, streamed=layers, staging_slots=slots)

    return change
