"""Predictors of paths: what they learn, and that what runs is what was trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from offload.predictor_training.command import train_from_files
from offload.predictor_training.embeddings import read_embeddings
from offload.predictor_training.lessons import join_traces, sequence_pieces, split_pieces, targets
from offload.predictor_training.network import PathNetwork, Shape
from offload.predictor_training.train import Course, train
from prefetch.path_file import PathFile, PathKind
from prefetch.routing_path import RoutingPath
from simulators.expert_trace import ExpertTrace
from tests.offload.zoo import VOCABULARY, plain_model, save_model
from tiers.errors import ModelError, TraceError

LAYERS, EXPERTS, K, TOKENS = 3, 8, 2, 12
SMALL: dict[str, Any] = {"hidden": 64, "inner": 128}
KINDS: tuple[PathKind, ...] = ("routing-path", "pre-gate")


def make_trace(requests: int = 48, length: int = 16, *, lag: int = 0, seed: int = 0) -> ExpertTrace:
    """Random requests; a token's experts follow at random from the token itself or the one ``lag`` places before it."""
    paths = [[np.random.default_rng([t, i]).permutation(EXPERTS)[:K] for i in range(LAYERS)] for t in range(TOKENS)]
    tokens = np.random.default_rng(seed).integers(0, TOKENS, (requests, length + lag))
    experts = np.array(paths)[tokens[:, :length]].reshape(-1, LAYERS, K).astype(np.int16)
    count = requests * length
    return ExpertTrace(
        model="a model",
        num_experts=EXPERTS,
        layers=np.array([0, 1, 3], np.int32),
        tokens=tokens[:, lag:].reshape(-1).astype(np.int32),
        requests=np.arange(requests, dtype=np.int32).repeat(length),
        passes=np.arange(count, dtype=np.int32),
        experts=experts,
        weights=np.full(experts.shape, 1 / K, np.float16),
        gate_inputs=np.zeros((count, LAYERS, 0), np.float16),
        gates=np.zeros((LAYERS, EXPERTS, 0), np.float32),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lag", "least"), [(0, 0.95), (1, 0.8)])
def test_a_path_that_follows_from_the_tokens_is_learnt(kind: PathKind, lag: int, least: float, tmp_path: Path) -> None:
    """From the token itself, or from the one before it, which only a context can tell and the first does not have."""
    make_trace(lag=lag).save(tmp_path / "t.npz")
    result = train_from_files(
        [tmp_path / "t.npz"], tmp_path / "p.npz", Course(replace(Shape.of(kind), **SMALL), steps=200)
    )
    assert result["recall"] > least
    assert result["popularity_recall"] < 0.6
    assert result["repetition_recall"] < 0.6
    assert [row["layer"] for row in result["per_layer"]] == [0, 1, 3]
    assert (result["tokens"], result["held_out_tokens"], result["chance"]) == (42 * 16, 6 * 16, K / EXPERTS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocks", [1, 2])
def test_what_runs_is_what_was_trained(kind: PathKind, blocks: int) -> None:
    """Without torch, over several windows, to the last digits of a table in half precision."""
    torch.manual_seed(3)
    shape = replace(Shape.of(kind), blocks=blocks, window=16, **SMALL)
    network = PathNetwork(shape, TOKENS, LAYERS, EXPERTS).eval()
    for parameter in network.parameters():
        parameter.data = (parameter + 0.1 * torch.randn_like(parameter)).half().float()
    file = PathFile(
        kind=kind,
        model="a model",
        num_experts=EXPERTS,
        top_k=K,
        layers=np.array([0, 1, 3], np.int32),
        ids=np.arange(TOKENS, dtype=np.int32),
        attention_heads=shape.heads,
        window=shape.window,
        arrays=network.arrays(),
    )
    tokens = torch.randint(TOKENS, (2, 40))
    with torch.inference_mode():
        logits = network(tokens).reshape(-1, LAYERS, EXPERTS)
    expected = logits.sigmoid() if kind == "routing-path" else (K * logits.softmax(-1)).clamp(max=1)
    np.testing.assert_allclose(RoutingPath(file).begin(tokens.numpy(), 0), expected.numpy(), atol=2e-5)


def test_the_same_seed_gives_the_same_predictor() -> None:
    trace = make_trace(4)
    small = replace(Shape.of("pre-gate"), **SMALL)
    state = torch.random.get_rng_state()
    first, again, other = (train(trace, sequence_pieces(trace), Course(small, 3, seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(value, again.arrays[name]) for name, value in first.arrays.items())
    assert not np.array_equal(first.arrays["heads"], other.arrays["heads"])
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's random numbers are used up"


def test_embeddings_of_the_model_reach_tokens_that_the_trace_does_not_have(tmp_path: Path) -> None:
    """The experts follow from the sign of embeddings; half of the vocabulary is in no trace."""
    random = np.random.default_rng(0)
    embeddings = torch.from_numpy(random.normal(size=(400, 16))).bfloat16()
    signs = (embeddings[:, :LAYERS] > 0).long().numpy()
    tokens = random.integers(0, 200, 1024)
    trace = make_trace(64)
    experts = np.stack([signs * K, signs * K + 1], axis=-1)
    seen = replace(trace, tokens=tokens.astype(np.int32), experts=experts[tokens].astype(np.int16))
    course = Course(replace(Shape.of("routing-path"), **SMALL), 100)
    predictor = RoutingPath(train(seen, sequence_pieces(seen), course, embeddings=embeddings))
    probabilities = predictor.begin(np.arange(200, 400)[:, None], 0)
    found = np.argsort(-probabilities, axis=-1)[..., 0] // K
    assert (found == signs[200:]).mean() > 0.85


def test_the_embeddings_of_a_checkpoint(tmp_path: Path) -> None:
    from offload.checkpoint.source import model_fingerprint

    path = save_model(tmp_path / "model", "mixtral", num_local_experts=4, num_experts_per_tok=2)
    expected = cast("torch.Tensor", plain_model(path).get_input_embeddings().weight)
    assert torch.equal(read_embeddings(path, model_fingerprint(path)), expected)
    assert expected.shape[0] == VOCABULARY
    with pytest.raises(ModelError, match="is not the model of which the trace is"):
        read_embeddings(path, "another")


def test_traces_are_joined() -> None:
    """Requests stay apart; a trace of another model is refused."""
    one, two = make_trace(2, 3), make_trace(1, 4)
    joined = join_traces([one, two])
    assert joined.requests.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert joined.passes.tolist() == list(range(10))
    assert [len(piece) for piece in sequence_pieces(joined)] == [3, 3, 4]
    changes: list[dict[str, Any]] = [{"model": "another"}, {"layers": two.layers + 1}]
    for change in changes:
        with pytest.raises(TraceError, match="the traces are of different models"):
            join_traces([one, replace(two, **change)])


def test_long_requests_are_cut_and_some_pieces_held_out() -> None:
    pieces = sequence_pieces(make_trace(1, 700))
    assert [len(piece) for piece in pieces] == [256, 256, 188]
    learnt, held_out = split_pieces(pieces)
    assert [len(piece) for piece in (*learnt, *held_out)] == [256, 256, 188]
    assert [len(part) for part in split_pieces(pieces[:1])] == [1, 1]
    with pytest.raises(TraceError, match="too short to train from"):
        split_pieces(sequence_pieces(make_trace(1, 1)))


def test_masked_choices_are_no_targets() -> None:
    trace = make_trace(1, 2)
    trace.experts[0, 0] = [EXPERTS, 3]
    trace.experts[1, 0] = [EXPERTS, EXPERTS]
    visited, shares = targets(trace, np.arange(2))
    assert visited[0, 0].tolist() == shares[0, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert not visited[1, 0].any()
    assert not shares[1, 0].any()
