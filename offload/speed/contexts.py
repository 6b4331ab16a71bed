"""What a longer context takes: the elementwise part of a prompt, attention over blocks, and moving these.

A small model is run with its KV cache in several places, and each run is replayed with what is known by then. What it
takes more than its replay, as far as the run with everything on the device does not, is put down to what only it does:
looking for blocks in each layer, then moving so many of them.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from offload.bench.generation import Timed, generate_timed, with_tiers
from offload.config import RunConfig
from offload.offloaded_model import OffloadedModel
from offload.plan import Plan, Workload
from offload.prospect import Prospect
from offload.simulation.generation import model_shape, placement_shape
from offload.speed.decoders import folder_in, save_dense
from simulators.generation_replay import GenerationResult, replay_generation
from simulators.generation_shape import ModelShape, PlacementShape, WorkShape
from simulators.profile import HardwareProfile
from simulators.runtime_profile import RuntimeProfile, Table

Place = Callable[[Plan], Plan]

_NOTHING_S = 1e-9


@dataclass(frozen=True, slots=True)
class ContextSizes:
    """The model, the context of its decode ``steps``, the ``prompts`` that are timed, and tokens of a block."""

    layers: int = 12
    hidden: int = 512
    context: int = 1024
    prompts: tuple[int, ...] = (128, 512, 2048)
    steps: int = 10
    repeats: int = 3
    block_tokens: tuple[int, ...] = (16, 64)


def measure_contexts(profile: HardwareProfile, directory: Path | None, sizes: ContextSizes) -> RuntimeProfile:
    """``profile.runtime`` with what contexts take; what a step and a layer take is known already.

    Without a ``directory`` nothing is moved to a drive. Raises as ``offload.load``.
    """
    with folder_in(directory) as folder:
        model = save_dense(folder, sizes.layers, sizes.hidden)
        contexts = _Contexts(profile, model, None if directory is None else folder, sizes)
        return contexts.of_blocks(contexts.of_prompts(profile.runtime or RuntimeProfile()))


class _Run(NamedTuple):
    """Generations in one placement: those of every prompt, and what they are replayed on."""

    timed: Mapping[int, list[Timed]]
    model: ModelShape
    placement: PlacementShape


class _Contexts:
    def __init__(self, profile: HardwareProfile, model: Path, nvme_dir: Path | None, sizes: ContextSizes) -> None:
        self._profile, self._model, self._nvme_dir, self._sizes = profile, model, nvme_dir, sizes
        self._resident = self._run(lambda plan: plan, sizes.block_tokens[-1], {*sizes.prompts, sizes.context})

    def of_prompts(self, found: RuntimeProfile) -> RuntimeProfile:
        """What is neither a product nor attention, by the length of a prompt."""
        run, rows = self._resident, []
        layers = run.model.layers
        for tokens in sorted(self._sizes.prompts):
            took_s = statistics.median(timed.prefill_s for timed in run.timed[tokens])
            left_s = took_s - self._replay(run, found, tokens).prefill_s
            nbytes = (tokens - 1) * layers[0].activation_nbytes
            rows.append((nbytes, len(layers) * nbytes / max(left_s, _NOTHING_S)))
        return replace(found, activations={run.model.dtype: tuple(rows)})

    def of_blocks(self, found: RuntimeProfile) -> RuntimeProfile:
        """First where blocks could be elsewhere and are not, then where most of them are."""
        usual_s = self._excess_s(self._resident, found)
        here = self._run(_all_here, self._sizes.block_tokens[-1])
        visit_s = (self._excess_s(here, found) - usual_s) / self._sizes.layers
        found = replace(found, kv_visit_s=max(0.0, visit_s))
        moved: dict[str, Table] = {}
        for tier, place in (("host", _in_host), ("nvme", _on_drive)):
            if tier == "nvme" and self._nvme_dir is None:
                continue
            table = tuple(
                self._moved(f"{tier}->device", place, tokens, found, usual_s) for tokens in self._block_tokens
            )
            moved[f"{tier}->device"] = moved[f"device->{tier}"] = table
        return replace(found, kv_moved=moved)

    @property
    def _block_tokens(self) -> list[int]:
        return sorted(self._sizes.block_tokens)

    def _moved(
        self, link: str, place: Place, block_tokens: int, found: RuntimeProfile, usual_s: float
    ) -> tuple[int, float]:
        """A row: bytes of a block, and of blocks a second."""
        run = self._run(place, block_tokens)
        nbytes = run.placement.kv_block_nbytes
        stretches = [timed.stretch for timed in run.timed[self._sizes.context] if timed.stretch]
        blocks = statistics.median(stretch.nbytes(link) / nbytes / stretch.passes for stretch in stretches)
        left_s = max(_NOTHING_S, self._excess_s(run, found) - usual_s)
        return nbytes, max(1.0, blocks) * nbytes / left_s

    def _excess_s(self, run: _Run, found: RuntimeProfile) -> float:
        """Of a decode step, by how much it was longer than its replay; in both without what was waited for."""
        context = self._sizes.context
        stretches = [timed.stretch for timed in run.timed[context] if timed.stretch]
        took_s = statistics.median((stretch.seconds - stretch.stall_s) / stretch.passes for stretch in stretches)
        replayed = self._replay(run, found, context)
        return took_s - (replayed.decode_s - replayed.decode_stall_s) / replayed.decode_steps

    def _replay(self, run: _Run, found: RuntimeProfile, tokens: int) -> GenerationResult:
        work = WorkShape(tokens, self._sizes.steps + 1)
        return replay_generation(run.model, run.placement, work, replace(self._profile, runtime=found))

    def _run(self, place: Place, block_tokens: int, prompts: set[int] | None = None) -> _Run:
        """``place`` is given a plan with everything on the device."""
        sizes, shapes = self._sizes, list[tuple[ModelShape, PlacementShape]]()
        lengths = prompts or {sizes.context}
        workload = Workload(1, max(lengths), sizes.steps + 1)
        config = RunConfig(nvme_dir=self._nvme_dir)

        def change(prospect: Prospect, plan: Plan) -> Plan:
            plan = place(plan)
            shapes.append((model_shape(prospect, plan), placement_shape(prospect, plan, config, workload)))
            return plan

        def use(model: OffloadedModel) -> dict[int, list[Timed]]:
            found = {}
            for tokens in sorted(lengths):
                new = 1 + (sizes.steps if tokens == sizes.context else 1)
                found[tokens] = [generate_timed(model, _prompt(tokens), new) for _ in range(sizes.repeats)]
            return found

        timed, _ = with_tiers(self._model, config, workload, use, change=change, block_tokens=block_tokens)
        return _Run(timed, *shapes[0])


def _prompt(tokens: int) -> list[int]:
    return [token % 1024 for token in range(tokens)]


def _all_here(plan: Plan) -> Plan:
    """Nothing leaves the device, but it might."""
    return replace(plan, kv_device_blocks=2 * plan.kv_device_blocks, kv_host_blocks=1)


def _in_host(plan: Plan) -> Plan:
    return replace(plan, kv_device_blocks=plan.kv_device_blocks // 3, kv_host_blocks=plan.kv_device_blocks)


def _on_drive(plan: Plan) -> Plan:
    return replace(plan, kv_device_blocks=plan.kv_device_blocks // 3, kv_nvme_blocks=plan.kv_device_blocks)
