"""A step that was captured, and its proof: on the very inputs of a step that was done without a graph."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.closeness import relative_error
from offload.copies import refill
from offload.graphs.backend import Graph, GraphBackend
from offload.graphs.placed import KernelFor, placed_cache
from offload.graphs.places import Places
from offload.kv.store import KVStore
from tiers.errors import first_line
from tiers.proven import Proven

Forward = Callable[..., Any]
"""Of a model, called by keywords."""

_CLOSE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest root mean square error, relative to what the same step gave before: as two exact kernels of attention differ
after many layers. A wrong place or a wrong position is off by about 1."""


@dataclass(frozen=True, slots=True, eq=False)
class StepInputs:
    """Memory of the device from which every replay reads what is new.

    ``embedded`` [rows, 1, hidden], ``positions`` [rows, 1], and the ``table`` of ``place_table``.
    """

    embedded: Tensor
    positions: Tensor
    table: Tensor

    @classmethod
    def like(cls, embedded: Tensor, table: NDArray[np.int64]) -> "StepInputs":
        """Room for such inputs."""
        with torch.inference_mode(mode=False):  # or else nobody could fill them in another mode
            return cls(
                torch.zeros(embedded.shape, dtype=embedded.dtype, device=embedded.device),
                torch.zeros(embedded.shape[:2], dtype=torch.int64, device=embedded.device),
                torch.zeros(table.shape, dtype=torch.int64, device=embedded.device),
            )

    def fill(self, embedded: Tensor, positions: Tensor, table: NDArray[np.int64]) -> None:
        """For the next replay; nobody waits."""
        self.embedded.copy_(embedded)
        self.positions.copy_(positions)
        refill(self.table, table)


@dataclass(frozen=True, slots=True, eq=False)
class CapturedStep:
    """``answer`` makes what the model would return, of logits."""

    inputs: StepInputs
    answer: type[Any]
    _graph: Graph = field(repr=False)

    def replay(self) -> Tensor:
        """Logits [rows, 1, vocabulary] of the inputs, whose keys and values are then in the arena."""
        self._graph.replay()
        return self._graph.output.clone()


def capture_step(
    backend: GraphBackend,
    store: KVStore,
    kernel_for: KernelFor,
    forward: Forward,
    make_inputs: Callable[[], StepInputs],
    room: int,
    expected: Any,
) -> Proven[CapturedStep]:
    """The step, proved by ``expected``: what the model returned for these inputs, whose tokens are in the arena.

    Raises torch.OutOfMemoryError, which says nothing of the step.
    """
    newest = kept = None
    try:
        inputs = make_inputs()
        newest = Places.of(inputs.table, room).newest.flatten()
        kept = store.rows.index_select(0, newest)
        with torch.inference_mode():
            step = CapturedStep(inputs, type(expected), backend.capture(_run(store, kernel_for, forward, inputs, room)))
        store.rows.index_fill_(0, newest, torch.nan)  # so that it shows whether a replay writes them
        flaw = _flaw(step.replay(), expected.logits) or _flaw(store.rows.index_select(0, newest), kept)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the step itself is done
        return Proven(None, f"a step cannot be captured ({type(error).__name__}: {first_line(error)})")
    finally:
        if newest is not None and kept is not None:
            store.rows.index_copy_(0, newest, kept)
    return Proven(None, flaw) if flaw else Proven(step)


def _run(
    store: KVStore, kernel_for: KernelFor, forward: Forward, inputs: StepInputs, room: int
) -> Callable[[], Tensor]:
    """What is captured: a step whose every number is read from ``inputs``."""

    def run() -> Tensor:
        cache = placed_cache(store, Places.of(inputs.table, room), kernel_for)
        found = forward(
            inputs_embeds=inputs.embedded,
            position_ids=inputs.positions,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        logits: Tensor = found.logits
        return logits

    return run


def _flaw(found: Tensor, expected: Tensor) -> str:
    """What is wrong with the first replay, "" where nothing is."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"a replay gives {found.dtype} {list(found.shape)} in place of {expected.dtype} {list(expected.shape)}"
    error = relative_error(found.float(), expected.float())
    if not error < _CLOSE.get(found.dtype, 0.0):
        return f"a replay gives something else (relative error {error:.1g})"
    if found.dtype == torch.float32 and found.dim() == 3 and not torch.equal(found.argmax(-1), expected.argmax(-1)):
        return "a replay gives another token"
    return ""
