"""Recorded routing of a mixture of experts: what the gates of a run were given and what they chose."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tiers.array_file import ArrayFormat, Arrays
from tiers.errors import TraceError

FORMAT: Final = ArrayFormat("offload-expert-trace-1", "expert trace", "'offload trace record' writes one", TraceError)

_DTYPES: dict[str, Any] = {
    "layers": np.int32,
    "tokens": np.int32,
    "requests": np.int32,
    "passes": np.int32,
    "experts": np.int16,
    "weights": np.float16,
    "gate_inputs": np.float16,
    "gates": np.float32,
}
_LEADING = {"tokens": "T", "requests": "T", "passes": "T", "experts": "TL", "weights": "TL", "gate_inputs": "TL"}
_WITH_LAST = ("experts", "weights", "gate_inputs")


@dataclass(frozen=True, slots=True)
class ExpertTrace:
    """The routing of ``T`` tokens through ``L`` layers with ``E`` experts of which a token visits ``k``.

    A file is a compressed NumPy archive (.npz, without pickle) of these arrays under these names, with the format's
    name in ``format``. What was not recorded has a length of 0 in its last dimension.
    """

    model: str
    """Fingerprint of the checkpoint: a predictor is of use for the model that it was trained on."""
    num_experts: int
    layers: NDArray[np.int32]
    """[L] index of each layer that has experts, ascending."""
    tokens: NDArray[np.int32]
    """[T] token ids, in the order in which the passes took them."""
    requests: NDArray[np.int32]
    """[T] which request a token belongs to."""
    passes: NDArray[np.int32]
    """[T] which forward pass of the model took the token, never decreasing; a decode step of a batch is one pass."""
    experts: NDArray[np.int16]
    """[T, L, k]; ``num_experts`` marks a choice that was masked."""
    weights: NDArray[np.float16]
    """[T, L, k] what the gate weighs the outputs by."""
    gate_inputs: NDArray[np.float16]
    """[T, L, hidden] what the gate was given."""
    gates: NDArray[np.float32]
    """[L, E, hidden] the gates' weights."""

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in _DTYPES}
        tokens, layers = self.tokens.shape[0], self.layers.shape[0]
        for name, leading in _LEADING.items():
            expected = tuple({"T": tokens, "L": layers, "E": self.num_experts}[axis] for axis in leading)
            found = shapes[name]
            if found[: len(expected)] != expected or len(found) != len(expected) + (name in _WITH_LAST):
                raise TraceError(f"the array '{name}' of an expert trace has the shape {found}, not {leading}")
        if shapes["experts"] != shapes["weights"]:
            raise TraceError(f"experts {shapes['experts']} and weights {shapes['weights']} differ in shape")
        if tokens and (np.diff(self.passes) < 0).any():
            raise TraceError("the passes of an expert trace decrease; its tokens are out of order")

    def iter_passes(self) -> Iterator[slice]:
        """The tokens of each pass, in order."""
        starts = [0, *(np.flatnonzero(np.diff(self.passes)) + 1).tolist(), len(self.passes)]
        return (slice(start, stop) for start, stop in itertools.pairwise(starts) if stop > start)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises InvalidOptionError where it cannot be written."""
        arrays = {name: getattr(self, name).astype(dtype, copy=False) for name, dtype in _DTYPES.items()}
        FORMAT.save(path, model=self.model, num_experts=self.num_experts, **arrays)

    @classmethod
    def load(cls, path: Path) -> "ExpertTrace":
        """Raises TraceError for a file that is not one."""
        return FORMAT.load(path, _read)


def _read(found: Arrays) -> ExpertTrace:
    arrays = {name: found[name].astype(dtype, copy=False) for name, dtype in _DTYPES.items()}
    return ExpertTrace(model=str(found["model"]), num_experts=int(found["num_experts"]), **arrays)
