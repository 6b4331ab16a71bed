from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulators.expert_trace import ExpertTrace
from tiers.errors import InvalidOptionError, TraceError

TOKENS, LAYERS, EXPERTS, K, HIDDEN = 7, 3, 6, 2, 5


def trace(**changes: Any) -> ExpertTrace:
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "model": "a model",
        "num_experts": EXPERTS,
        "layers": np.array([0, 1, 3], np.int32),
        "tokens": random.integers(0, 100, TOKENS, dtype=np.int32),
        "requests": np.array([0, 0, 0, 0, 0, 1, 1], np.int32),
        "passes": np.array([0, 0, 0, 1, 2, 3, 3], np.int32),
        "experts": random.integers(0, EXPERTS, (TOKENS, LAYERS, K)).astype(np.int16),
        "weights": random.random((TOKENS, LAYERS, K)).astype(np.float16),
        "gate_inputs": random.random((TOKENS, LAYERS, HIDDEN)).astype(np.float16),
        "gates": random.random((LAYERS, EXPERTS, HIDDEN)).astype(np.float32),
    }
    return ExpertTrace(**(arrays | changes))


def test_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = trace()
    saved.save(tmp_path / "t.npz")
    loaded = ExpertTrace.load(tmp_path / "t.npz")
    for field in fields(ExpertTrace):
        assert np.array_equal(getattr(loaded, field.name), getattr(saved, field.name)), field.name
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


def test_passes() -> None:
    assert [(s.start, s.stop) for s in trace().iter_passes()] == [(0, 3), (3, 4), (4, 5), (5, 7)]
    empty = {name: getattr(trace(), name)[:0] for name in ("tokens", "requests", "passes", "experts", "weights")}
    assert list(trace(**empty, gate_inputs=trace().gate_inputs[:0]).iter_passes()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passes": np.array([0, 1, 0, 1, 2, 3, 3], np.int32)}, "out of order"),
        ({"tokens": np.zeros(4, np.int32)}, "has the shape"),
        ({"weights": np.zeros((TOKENS, LAYERS, 3), np.float16)}, "differ in shape"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(**changes)


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    with pytest.raises(TraceError, match="no such expert trace"):
        ExpertTrace.load(path)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(TraceError, match="is no expert trace"):
        ExpertTrace.load(tmp_path / "one.npy")
    path.write_bytes(b"nonsense")
    with pytest.raises(TraceError, match="is no expert trace"):
        ExpertTrace.load(path)
    np.savez(path, format="another")
    with pytest.raises(TraceError, match="is of the format 'another'"):
        ExpertTrace.load(path)
    trace().save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(TraceError, match="is no expert trace, or a damaged one"):
        ExpertTrace.load(path)
    with pytest.raises(InvalidOptionError, match="cannot be written"):
        trace().save(tmp_path / "missing" / "t.npz")


def test_arrays_of_another_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    trace().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {"passes": replace(trace()).passes[:3]}))
    with pytest.raises(TraceError, match="'passes' of an expert trace has the shape"):
        ExpertTrace.load(path)
