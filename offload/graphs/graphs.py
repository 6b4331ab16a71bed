"""Decode steps of one model by graphs, wherever one has proved to be right; everything else as it was."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from offload.attention.paged import kernel_for_runs
from offload.graphs.backend import SET_ASIDE_NBYTES, GraphBackend
from offload.graphs.captured import CapturedStep, Forward, StepInputs, capture_step
from offload.graphs.origin import Origin
from offload.graphs.placed import KernelFor, attention_nbytes
from offload.graphs.places import place_table, room_for
from offload.graphs.step import Step, read_step
from offload.kv.store import KVStore
from offload.sizes import format_size

if TYPE_CHECKING:
    from offload.offloaded_model import OffloadedModel

Key = tuple[int, int]
"""How many rows, and the tokens of each for which there is room."""

_APART = "the tokens of a sequence do not lie side by side"


class StepGraphs:
    """A graph for each number of rows and each of a few lengths (``room_for``), made when it is first needed.

    Once one does not prove right no step is done by a graph any more; ``obstacle`` says why none ever is. One that
    takes more memory than there is, or than was set aside for all, is given up, and others go on. Where somebody
    changes the model (see Origin) all are made again.
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
        self._origin = Origin.of(model)
        self._captured: dict[Key, CapturedStep] = {}
        self._given_up: set[Key] = set()
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
        if key in self._given_up:
            return eager(model, **kwargs)
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
        if not self._origin.is_still(model):
            self._origin = Origin.of(model)
            self._captured.clear()
            self._given_up.clear()
        if isinstance(found, str):
            reason = found
        elif self._origin.has_hooks:
            reason = "modules have hooks"
        elif found.cache.store is not model.runtime.kv:
            reason = "past_key_values is of another model"
        elif _table(found) is None:  # asked again once there is a new token, which may lie elsewhere
            reason = _APART
        else:
            return found
        if reason:
            self._reasons[reason] = None
        return None

    def _capture(self, key: Key, model: "OffloadedModel", forward: Forward, step: Step, answer: Any) -> None:
        """Make the graph of a step that has just been done, with its ``answer``."""
        table = _table(step)
        if table is None or set(answer) != {"logits", "past_key_values"}:
            self._reasons[_APART if table is None else "the model returns more than logits"] = None
            return
        store, (rows, room) = model.runtime.kv, key
        heads = getattr(model.config, "num_attention_heads", store.keys.shape[1])
        needs = attention_nbytes(store, rows, heads, room)
        if self._backend.nbytes + needs > self._most_nbytes:
            self._give_up(key, self._too_large(needs))
            return

        def make_inputs() -> StepInputs:
            embedded = model.get_input_embeddings()(step.ids)
            inputs = StepInputs.like(embedded, table)
            inputs.fill(embedded, step.positions, table)
            return inputs

        try:
            proven = capture_step(self._backend, store, self._kernel_for, forward, make_inputs, room, answer)
        except torch.OutOfMemoryError:
            self._give_up(key, "there is not enough memory to capture one")
            return
        if proven.value is None:
            self._captured.clear()
            self._flaw = proven.flaw
        elif self._backend.nbytes > self._most_nbytes:
            self._give_up(key, self._too_large(0))
        else:
            self._captured[key] = proven.value

    def _give_up(self, key: Key, reason: str) -> None:
        """This graph only."""
        rows, room = key
        self._given_up.add(key)
        self._reasons[f"none for {rows} rows of up to {room} tokens: {reason}"] = None

    def _too_large(self, more: int) -> str:
        kept, set_aside = format_size(self._backend.nbytes + more), format_size(self._most_nbytes)
        return f"with it all would keep {kept} of the device's memory, for which {set_aside} is set aside"

    def _replay(self, captured: CapturedStep, model: "OffloadedModel", step: Step) -> Any:
        """The answer, or None where new blocks lie elsewhere; then nothing has happened, nor where it raises."""
        embedded = model.get_input_embeddings()(step.ids)  # which looks whether there are such tokens
        step.cache.make_room()
        try:
            table = _table(step)
            if table is not None:
                captured.inputs.fill(embedded, step.positions, table)
                logits = captured.replay()
        except BaseException:
            # Or else all layers agree on a token that nobody has written.
            step.cache.crop(-1)
            raise
        if table is None:
            step.cache.crop(-1)
            self._reasons[_APART] = None
            return None
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
