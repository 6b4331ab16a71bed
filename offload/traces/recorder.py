"""Collects the routing of a run, pass by pass."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prefetch.expert_predictor import Routing
from simulators.expert_trace import ExpertTrace

_LARGEST = float(np.finfo(np.float16).max)


class RoutingRecorder:
    """Takes ``num_tokens`` tokens through ``layers`` at most; what it keeps of them is allocated with the first.

    It is told of a pass by ``begin`` and of each layer of it by ``observe``. Tokens stand in the order of the passes,
    and sequence by sequence in a pass.
    """

    def __init__(self, layers: Sequence[int], num_tokens: int, *, gate_inputs: bool) -> None:
        self._row_of = {layer: row for row, layer in enumerate(layers)}
        self._num_tokens = num_tokens
        self._with_inputs = gate_inputs
        self._tokens = np.empty(num_tokens, np.int32)
        self._requests = np.empty(num_tokens, np.int32)
        self._passes = np.empty(num_tokens, np.int32)
        self._kept: tuple[NDArray[np.int16], NDArray[np.float16], NDArray[np.float16]] | None = None
        self._pass = slice(0, 0)
        self._num_passes = 0
        self._first_request = 0
        self._num_sequences = 0

    def begin(self, tokens: NDArray[np.int64], position: int) -> None:
        """A pass over ``tokens`` [sequences, new tokens]; at position 0 each sequence is a new request."""
        if position == 0:
            self._first_request += self._num_sequences
            self._num_sequences = len(tokens)
        self._pass = slice(self._pass.stop, self._pass.stop + tokens.size)
        assert self._pass.stop <= self._num_tokens, "more tokens than were announced"
        self._tokens[self._pass] = tokens.reshape(-1)
        self._passes[self._pass] = self._num_passes
        self._requests[self._pass] = self._first_request + np.arange(len(tokens)).repeat(tokens.shape[1])
        self._num_passes += 1

    def observe(self, routing: Routing) -> None:
        """Keeps a layer of the pass that began last."""
        if self._kept is None:
            leading = (self._num_tokens, len(self._row_of))
            top_k = routing.experts.shape[1]
            hidden = routing.gate_input.shape[1] if self._with_inputs else 0
            experts = np.empty((*leading, top_k), np.int16)
            self._kept = (experts, np.empty((*leading, top_k), np.float16), np.empty((*leading, hidden), np.float16))
        row = self._row_of[routing.layer]
        experts, weights, inputs = self._kept
        experts[self._pass, row] = routing.experts
        weights[self._pass, row] = routing.weights
        if self._with_inputs:
            inputs[self._pass, row] = routing.gate_input.clip(-_LARGEST, _LARGEST)

    def trace(self, model: str, num_experts: int, gates: NDArray[np.float32]) -> ExpertTrace:
        """What was recorded. ``gates`` is [layers, experts, hidden], or [layers, experts, 0]."""
        assert self._kept is not None, "nothing was recorded"
        done = self._pass.stop
        experts, weights, inputs = self._kept
        return ExpertTrace(
            model=model,
            num_experts=num_experts,
            layers=np.array(list(self._row_of), np.int32),
            tokens=self._tokens[:done],
            requests=self._requests[:done],
            passes=self._passes[:done],
            experts=experts[:done],
            weights=weights[:done],
            gate_inputs=inputs[:done],
            gates=gates,
        )
