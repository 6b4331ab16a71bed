"""Predictors of paths: files, contexts and what they say. Their equality with what was trained is tested there."""

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from prefetch.path_file import FORMAT, PathFile
from prefetch.routing_path import RoutingPath
from tiers.errors import InvalidOptionError, ModelError

LAYERS, EXPERTS, K, HIDDEN, INNER, HEADS, WINDOW = 3, 6, 2, 8, 12, 2, 5
IDS = np.array([2, 3, 5, 8, 13], np.int32)


def arrays(kind: str, seed: int = 0) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)

    def make(*shape: int) -> NDArray[np.float32]:
        return (random.normal(size=shape) / 2).astype(np.float32)

    block = {name: make(HIDDEN, HIDDEN) for name in ("query", "key", "value", "output")}
    block |= {"norm_before": make(HIDDEN), "norm_between": make(HIDDEN), "up": make(HIDDEN, INNER)}
    block |= {"down": make(INNER, HIDDEN)}
    block |= {"bias": make(WINDOW, HEADS)} if kind == "routing-path" else {"gate": make(HIDDEN, INNER)}
    named = {f"blocks.0.{name}": value for name, value in block.items()}
    heads = {"heads": make(HIDDEN, LAYERS * EXPERTS), "offsets": make(LAYERS * EXPERTS)}
    return {"embedding": make(len(IDS) + 1, HIDDEN).astype(np.float16), "norm": make(HIDDEN), **heads, **named}


def file(kind: Any = "routing-path", **changes: Any) -> PathFile:
    made = PathFile(
        kind=kind,
        model="a model",
        num_experts=EXPERTS,
        top_k=K,
        layers=np.array([0, 1, 3], np.int32),
        ids=IDS,
        attention_heads=HEADS,
        window=WINDOW,
        arrays=arrays(kind),
    )
    return replace(made, **changes)


def tokens(*rows: list[int]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


KINDS = ("routing-path", "pre-gate")


@pytest.mark.parametrize("kind", KINDS)
def test_comes_back_as_it_was_saved(kind: str, tmp_path: Path) -> None:
    saved = file(kind)
    saved.save(tmp_path / "p.npz")
    found = PathFile.load(tmp_path / "p.npz")
    for field in fields(PathFile):
        one, other = getattr(saved, field.name), getattr(found, field.name)
        if isinstance(one, Mapping):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)
        else:
            assert np.array_equal(one, other), field.name
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]
    text = tokens([2, 3, 5])
    assert np.array_equal(RoutingPath(saved).begin(text, 0), RoutingPath.load(tmp_path / "p.npz").begin(text, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_token_by_token_is_as_good_as_all_at_once(kind: str) -> None:
    """A prompt of several windows, in pieces of any length, for two sequences side by side."""
    text = np.random.default_rng(1).choice(IDS, (2, 3 * WINDOW + 2)).astype(np.int64)
    whole = RoutingPath(file(kind)).begin(text, 0).reshape(2, -1, LAYERS, EXPERTS)
    assert whole.dtype == np.float32
    predictor = RoutingPath(file(kind))
    place = 0
    for length in (1, 7, 1, 1, 6, 1):
        found = predictor.begin(text[:, place : place + length], place).reshape(2, length, LAYERS, EXPERTS)
        np.testing.assert_allclose(found, whole[:, place : place + length], atol=1e-5)
        place += length
    assert place == text.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_counts_as_far_as_the_window_goes(kind: str) -> None:
    """What a token gets depends on the tokens in its window and on none before them."""
    text = np.random.default_rng(2).choice(IDS, 2 * WINDOW).astype(np.int64)
    last = RoutingPath(file(kind)).begin(text[None], 0)[-1]
    in_window = RoutingPath(file(kind)).begin(text[None, -WINDOW:], 0)[-1]
    np.testing.assert_allclose(last, in_window, atol=1e-5)
    assert not np.allclose(last, RoutingPath(file(kind)).begin(text[None, 1 - WINDOW :], 0)[-1], atol=1e-3)


def test_a_context_is_not_carried_over() -> None:
    """Not to a new request, not over a gap, and not to another number of sequences."""
    fresh = RoutingPath(file()).begin(tokens([8]), 0)
    predictor = RoutingPath(file())
    predictor.begin(tokens([2, 3]), 0)
    assert not np.allclose(predictor.begin(tokens([8]), 2), fresh, atol=1e-3)
    assert np.array_equal(predictor.begin(tokens([8]), 0), fresh)
    assert np.array_equal(predictor.begin(tokens([8]), 5), fresh)
    np.testing.assert_allclose(predictor.begin(tokens([8], [8]), 6), np.concatenate([fresh, fresh]), atol=1e-6)


def test_tokens_that_were_never_seen_are_all_alike() -> None:
    found = [RoutingPath(file()).begin(tokens([token]), 0) for token in (4, 0, 14, 10**6, -1)]
    assert all(np.array_equal(one, found[0]) for one in found)
    assert not np.allclose(found[0], RoutingPath(file()).begin(tokens([5]), 0), atol=1e-3)


def test_probabilities() -> None:
    """Of a pre-gate, k experts with even shares are certain and share what there is."""
    extreme = {"heads": np.zeros((HIDDEN, LAYERS * EXPERTS)), "offsets": np.tile([100.0, 100, 0, 0, 0, 0], LAYERS)}
    for kind, others in (("routing-path", 0.5), ("pre-gate", 0.0)):
        found = RoutingPath(file(kind, arrays=arrays(kind) | extreme)).begin(tokens([5, 8]), 0)
        assert found.shape == (2, LAYERS, EXPERTS)
        np.testing.assert_allclose(found, np.broadcast_to([1, 1, *[others] * 4], found.shape), atol=1e-6)


def test_another_model(tmp_path: Path) -> None:
    file().save(tmp_path / "p.npz")
    assert RoutingPath.load(tmp_path / "p.npz", "a model").file.top_k == K
    with pytest.raises(ModelError, match=r"p\.npz: was trained for another model; record a trace of this one"):
        RoutingPath.load(tmp_path / "p.npz", "the model that is running")


def test_files_that_are_no_predictors(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    with pytest.raises(ModelError, match=r"no such predictor of paths; 'offload train-predictor' makes one"):
        PathFile.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="is no predictor of paths, or a damaged one"):
        PathFile.load(path)
    np.savez(path, format="offload-expert-trace-1")
    with pytest.raises(ModelError, match=re.escape(f"is of the format 'offload-expert-trace-1', not {FORMAT.name}")):
        PathFile.load(path)
    np.savez(path, format=FORMAT.name, kind="oracle")
    with pytest.raises(ModelError, match="is no predictor of paths"):
        PathFile.load(path)
    np.savez(path, format=FORMAT.name, payload=np.array([{}], object), allow_pickle=True)
    with pytest.raises(ModelError, match="is no predictor of paths"):
        PathFile.load(path)
    for damage in ({"kind": "oracle"}, {"num_experts": 0}, {"window": -1}):
        file(**damage).save(path)
        with pytest.raises(ModelError, match="is no predictor of paths"):
            PathFile.load(path)
    file().save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelError, match="is no predictor of paths, or a damaged one"):
        PathFile.load(path)
    with pytest.raises(InvalidOptionError, match="cannot be written"):
        file().save(tmp_path / "missing" / "p.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": IDS[:-1]}, "do not fit its layers and tokens"),
        ({"num_experts": 5}, "do not fit its layers and tokens"),
        ({"attention_heads": 3}, "do not fit together"),
        ({"window": 99}, "do not fit its layers and tokens"),
        ({"arrays": {"embedding": np.ones((6, 8))}}, "do not fit together"),
        ({"arrays": arrays("pre-gate") | {"norm": np.full(HIDDEN, np.nan)}}, "do not fit its layers"),
        ({"arrays": arrays("pre-gate") | {"blocks.0.up": np.ones((3, 3))}}, "do not fit together"),
    ],
)
def test_arrays_that_do_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    file(**changes).save(tmp_path / "p.npz")
    with pytest.raises(ModelError, match=rf"p\.npz: the arrays of this predictor {message}"):
        RoutingPath.load(tmp_path / "p.npz")
