"""Decode steps of one model by graphs, wherever one has proved to be right; everything else as it was."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offload.attention.paged import kernel_for_runs
from offload.graphs.backend import SET_ASIDE_NBYTES, GraphBackend
from offload.graphs.captured import CapturedStep, Forward, StepInputs, capture_step
from offload.graphs.placed import KernelFor
from offload.graphs.places import place_table, room_for
from offload.graphs.step import Step, hooks_of, read_step
from offload.kv.store import KVStore
from offload.sizes import format_size

if TYPE_CHECKING:
    from offload.offloaded_model import OffloadedModel

_APART = "the tokens of a sequence do not lie side by side"


class StepGraphs:
    """A graph for each number of rows and each of a few lengths (``room_for``), made when it is first needed.

    Once one does not prove right, or all take more memory than was set aside, no step is done by a graph any more.
    ``obstacle`` says why none ever is.
    """

    def __init__(
        self,
        model: "OffloadedModel",
        backend: GraphBackend,
        *,
        kernel_for: KernelFor = kernel_for_runs,
        most_nbytes: int = SET_ASIDE_NBYTES,
        obstacle: str = "",
    ) -> None:
        self._backend = backend
        self._kernel_for = kernel_for
        self._most_nbytes = most_nbytes
        self._hooks = hooks_of(model)
        self._captured: dict[tuple[int, int], CapturedStep] = {}
        self._flaw = obstacle
        self._reasons: dict[str, None] = {}
        self.num_replays = 0
        """Steps that were done by a graph."""

    @property
    def notes(self) -> list[str]:
        """Why steps were done without a graph, one line each."""
        return [f"CUDA graphs: {reason}" for reason in (self._flaw, *self._reasons) if reason]

    def step(self, model: "OffloadedModel", eager: Forward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What ``eager`` returns for this model and these arguments; it is called where no graph does it.

        Raises what ``eager`` raises.
        """
        step = self._read(model, args, kwargs)
        if step is None:
            return eager(model, *args, **kwargs)
        key = (len(step.ids), room_for(step.end))
        if key not in self._captured:
            answer = eager(model, **kwargs)
            self._capture(key, model, partial(eager, model), step, answer)
            return answer
        answer = self._replay(self._captured[key], model, step)
        return eager(model, **kwargs) if answer is None else answer

    def close(self) -> None:
        """Give the memory of all graphs back; no step is done by one any more."""
        self._captured.clear()
        self._flaw = self._flaw or "the model is closed"

    def _read(self, model: "OffloadedModel", args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Step | None:
        if self._flaw:
            return None
        found = read_step(model, args, kwargs)
        if isinstance(found, str):
            reason = found
        elif any(self._hooks):
            reason = "modules have hooks"
        elif _table(found) is None:
            reason = _APART
        else:
            return found
        if reason:
            self._reasons[reason] = None
        return None

    def _capture(
        self, key: tuple[int, int], model: "OffloadedModel", forward: Forward, step: Step, answer: Any
    ) -> None:
        """Make the graph of a step that has just been done, with its ``answer``."""
        table = _table(step)
        if table is None or set(answer) != {"logits", "past_key_values"}:
            self._reasons[_APART if table is None else "the model returns more than logits"] = None
            return
        embedded = model.get_input_embeddings()(step.ids)
        inputs = StepInputs.like(embedded, table)
        inputs.fill(embedded, step.positions, table)
        store = model.runtime.kv
        proven = capture_step(self._backend, store, self._kernel_for, forward, inputs, key[1], answer)
        if proven.kernel is not None and self._backend.nbytes <= self._most_nbytes:
            self._captured[key] = proven.kernel
            return
        kept, set_aside = format_size(self._backend.nbytes), format_size(self._most_nbytes)
        self._captured.clear()
        self._flaw = proven.flaw or f"they keep {kept} of the device's memory, for which {set_aside} is set aside"

    def _replay(self, captured: CapturedStep, model: "OffloadedModel", step: Step) -> Any:
        """The answer, or None where new blocks lie elsewhere; then nothing has happened."""
        embedded = model.get_input_embeddings()(step.ids)  # which looks whether there are such tokens
        step.cache.make_room()
        table = _table(step)
        if table is None:
            step.cache.crop(-1)
            self._reasons[_APART] = None
            return None
        captured.inputs.fill(embedded, step.positions, table)
        logits = captured.replay()
        _count_visits(model.runtime.kv, step)
        self.num_replays += 1
        return captured.answer(logits=logits, past_key_values=step.cache)


def by_graphs(forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` of a model's class, with the same signature: by a graph where the model has one for the step."""

    @wraps(forward)
    def step(model: "OffloadedModel", *args: Any, **kwargs: Any) -> Any:
        graphs = model.runtime.graphs
        return forward(model, *args, **kwargs) if graphs is None else graphs.step(model, forward, args, kwargs)

    return step


def _table(step: Step) -> NDArray[np.int64] | None:
    return place_table(step.cache.tables(), step.begins, step.end)


def _count_visits(store: KVStore, step: Step) -> None:
    for _ in step.cache.tables():
        for begin in step.begins:
            store.count_visit(begin, step.end)
