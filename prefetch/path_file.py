"""Trained predictors of paths as files: what a network was trained for, and its arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prefetch.path_network import Matrix, PathBlock, PathNetwork
from tiers.array_file import ArrayFormat, Arrays
from tiers.errors import ModelError

_CURE: Final = "'offload train-predictor' makes one"

FORMAT: Final = ArrayFormat("offload-path-predictor-1", "predictor of paths", _CURE, ModelError)
PathKind = Literal["routing-path", "pre-gate"]


@dataclass(frozen=True, slots=True)
class PathFile:
    """A network that foresees the experts of ``layers`` from token ids, and the model for which it does.

    A file is a compressed NumPy archive (.npz, without pickle) of the fields under their names, ``format``, and the
    arrays of the network under theirs.
    """

    kind: PathKind
    model: str
    """Fingerprint of the checkpoint whose routing it was trained on."""
    num_experts: int
    top_k: int
    layers: NDArray[np.int32]
    """[L] index of each layer that has experts, ascending; the network puts out L x ``num_experts`` numbers."""
    ids: NDArray[np.int32]
    """The token ids, ascending, of the rows of the embedding; one more row, the last, is for all others."""
    attention_heads: int
    window: int
    arrays: Mapping[str, NDArray[Any]]

    def network(self) -> PathNetwork:
        """Raises ModelError where arrays are missing or do not fit together."""
        try:
            blocks = self._blocks()
            network = PathNetwork(
                embedding=self.arrays["embedding"].astype(np.float16, copy=False),
                blocks=blocks,
                **{name: self._matrix(name) for name in ("norm", "heads", "offsets")},
                attention_heads=self.attention_heads,
                window=self.window,
            )
            outputs = network.run(np.zeros((1, 1), np.int64), network.begin())
        except (KeyError, ValueError, IndexError, ZeroDivisionError):
            raise ModelError(f"the arrays of this predictor do not fit together; {_CURE}") from None
        expected = (len(self.layers) * self.num_experts, len(self.ids) + 1)
        biases = [block.bias for block in blocks if block.bias is not None]
        is_fit = all(bias.shape == (self.window, self.attention_heads) for bias in biases)
        if not is_fit or (outputs.shape[-1], len(network.embedding)) != expected or not np.isfinite(outputs).all():
            raise ModelError(f"the arrays of this predictor do not fit its layers and tokens; {_CURE}")
        return network

    def _blocks(self) -> tuple[PathBlock, ...]:
        names = [field.name for field in fields(PathBlock)]
        numbers = sorted({int(name.split(".")[1]) for name in self.arrays if name.startswith("blocks.")})
        return tuple(
            PathBlock(**{n: self._matrix(f"blocks.{i}.{n}") for n in names if f"blocks.{i}.{n}" in self.arrays})
            for i in numbers
        )

    def _matrix(self, name: str) -> Matrix:
        return np.ascontiguousarray(self.arrays[name], np.float32)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises InvalidOptionError where it cannot be written."""
        content: dict[str, Any] = {name: getattr(self, name) for name in (*_SCALARS, "layers", "ids")}
        FORMAT.save(path, **content, **self.arrays)

    @classmethod
    def load(cls, path: Path) -> "PathFile":
        """Raises ModelError for a file that is not one."""
        return FORMAT.load(path, _read)


_SCALARS: Final[Mapping[str, type]] = {
    "kind": str,
    "model": str,
    "num_experts": int,
    "top_k": int,
    "attention_heads": int,
    "window": int,
}


def _read(found: Arrays) -> PathFile:
    values: dict[str, Any] = {name: kind(found.pop(name)) for name, kind in _SCALARS.items()}
    if values["kind"] not in get_args(PathKind) or min(v for v in values.values() if isinstance(v, int)) < 1:
        raise ValueError("a value that nobody would write")
    layers, ids = found.pop("layers").astype(np.int32), found.pop("ids").astype(np.int32)
    return PathFile(**values, layers=layers, ids=ids, arrays=found)
