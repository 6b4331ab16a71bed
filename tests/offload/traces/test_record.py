"""Recorded routing against what the routers of plain transformers choose."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offload.checkpoint.source import model_fingerprint
from offload.config import RunConfig
from offload.pack import pack
from offload.traces import record
from offload.traces.record import Course, record_trace
from simulators.expert_trace import ExpertTrace
from simulators.trace_statistics import layer_statistics
from tests.offload.zoo import VOCABULARY, plain_model, save_model, smallest_budget
from tiers.errors import InvalidOptionError, ModelError

LAYERS, EXPERTS, K, HIDDEN = 4, 6, 2, 64
SHAPES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": EXPERTS, "num_experts_per_tok": K},
    "glm4_moe": {
        "n_routed_experts": EXPERTS,
        "num_experts_per_tok": K,
        "moe_intermediate_size": 48,
        "head_dim": 16,
        "first_k_dense_replace": 1,
    },
}
IDS = np.random.default_rng(5).integers(3, VOCABULARY, 200)
TOKENS: list[int] = IDS.tolist()


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("moe"), "mixtral", **SHAPES["mixtral"])


def plain_routing(path: Path, sequences: torch.Tensor) -> dict[int, tuple[Any, Any, Any]]:
    """By layer: what the experts of a plain model are given, as hidden states, indices and weights [sequences, ...]."""
    model = plain_model(path)
    found: dict[int, tuple[Any, Any, Any]] = {}

    def hook(layer: int) -> Any:
        def keep(_module: object, args: tuple[torch.Tensor, ...]) -> None:
            found[layer] = tuple(value.reshape(*sequences.shape, -1).numpy() for value in args[:3])  # type: ignore[assignment]

        return keep

    for name, module in model.named_modules():
        if name.endswith(".experts"):
            module.register_forward_pre_hook(hook(int(name.split(".")[2])))
    with torch.inference_mode():
        model(input_ids=sequences)
    return found


@pytest.mark.parametrize("model_type", SHAPES)
@pytest.mark.parametrize("forced", [True, False])
def test_routing_is_that_of_the_plain_model(model_type: str, forced: bool, tmp_path: Path) -> None:
    """In little memory, two requests side by side and one alone, prefill and decode; whatever the model decodes."""
    path = save_model(tmp_path / "model", model_type, **SHAPES[model_type])
    course = Course(requests=3, prompt_tokens=20, new_tokens=5, forced=forced)
    budget = smallest_budget(path, tmp_path / "nvme", prompt_tokens=20, new_tokens=5, batch=2)
    config = RunConfig(device_memory=budget, nvme_dir=tmp_path / "nvme", batch=2)
    trace = record_trace(config, path, TOKENS, course, gate_inputs=True)
    assert len(trace.tokens) == course.num_tokens == 75
    assert (trace.model, trace.num_experts) == (model_fingerprint(path), EXPERTS)
    by_request = np.argsort(trace.requests, kind="stable").reshape(3, 25)
    sequences = trace.tokens[by_request]
    texts = IDS[: 3 * course.piece_tokens].reshape(3, -1)
    assert np.array_equal(sequences[:, : texts.shape[1]], texts)
    expected = plain_routing(path, torch.from_numpy(sequences).long())
    assert trace.layers.tolist() == sorted(expected)
    for row, layer in enumerate(trace.layers.tolist()):
        hidden, experts, weights = expected[layer]
        assert np.array_equal(trace.experts[by_request, row], experts)
        assert np.allclose(trace.weights[by_request, row], weights, atol=1e-3)
        assert np.allclose(trace.gate_inputs[by_request, row], hidden, atol=4e-3)


def test_passes_of_a_batch(mixtral: Path) -> None:
    """All prompts of a batch are one pass, then a step of all of them is."""
    trace = record_trace(RunConfig(batch=2), mixtral, TOKENS, Course(3, 4, 2, forced=True))
    assert trace.passes.tolist() == [*[0] * 8, 1, 1, 2, 2, *[3] * 4, 4, 5]
    assert trace.requests.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, *[2] * 6]
    assert (trace.gate_inputs.shape, trace.gates.shape) == ((18, LAYERS, 0), (LAYERS, EXPERTS, 0))


def test_gates_are_recorded_with_their_inputs(mixtral: Path, tmp_path: Path) -> None:
    """So that what the gates of other layers would have said can be told from the trace alone."""
    trace = record_trace(RunConfig(), mixtral, TOKENS, Course(1, 30, 2, forced=True), gate_inputs=True)
    logits = np.einsum("tlh,leh->tle", trace.gate_inputs.astype(np.float32), trace.gates)
    likely = np.argsort(-logits, axis=-1)[..., :K]
    assert (np.sort(likely) == np.sort(trace.experts)).mean() > 0.95  # but for ties in float16
    trace.save(tmp_path / "trace.npz")
    assert 0 < layer_statistics(ExpertTrace.load(tmp_path / "trace.npz"))[1].next_gate_recall <= 1


def test_a_packed_store_is_the_same_model(mixtral: Path, tmp_path: Path) -> None:
    pack(mixtral, tmp_path / "packed")
    course = Course(1, 10, 2, forced=True)
    traces = [record_trace(RunConfig(), path, TOKENS, course) for path in (mixtral, tmp_path / "packed")]
    assert traces[0].model == traces[1].model
    assert np.array_equal(traces[0].experts, traces[1].experts)


def test_a_dense_model(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="'llama' has no routed experts; name a mixture of experts"):
        record_trace(RunConfig(), tiny_llama, [4, 7], Course(1, 2, 1))


def test_a_text_that_is_too_short(mixtral: Path) -> None:
    with pytest.raises(InvalidOptionError, match="the text has 200 tokens, 3 requests of 80 take 240; give a longer"):
        record_trace(RunConfig(), mixtral, TOKENS, Course(3, 70, 10, forced=True))


def test_a_token_of_another_vocabulary(mixtral: Path) -> None:
    with pytest.raises(InvalidOptionError, match="token id 777 is not in the vocabulary of 200"):
        record_trace(RunConfig(), mixtral, [4, 777], Course(1, 2, 1))


def test_a_trace_that_would_not_fit(mixtral: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before the model is loaded: 6 tokens of 4 layers take 4 bytes for each of 2 choices, 128 for an input."""
    monkeypatch.setattr(record, "MOST_NBYTES", 6 * 4 * (8 + 128) - 1)
    course = Course(1, 4, 2)
    with pytest.raises(InvalidOptionError, match=r"6 tokens make a trace of .*; leave --gate-inputs out or record"):
        record_trace(RunConfig(), mixtral, TOKENS, course, gate_inputs=True)
    assert len(record_trace(RunConfig(), mixtral, TOKENS, course).tokens) == 6
