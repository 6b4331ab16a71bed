"""Tokens by graphs are those of plain transformers, and whatever is no step for a graph is done without."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offload.graphs.backend import SET_ASIDE_NBYTES
from offload.graphs.captured import CapturedStep
from offload.offloaded_model import OffloadedModel
from tests.offload.graphs.kit import graphed, on, record_steps
from tests.offload.graphs.recorder import RecordedGraph, RecordedGraphs, plain_pieces
from tests.offload.test_families import FAMILIES
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model
from tests.tiers.devices import on_every_device
from tiers.errors import InvalidOptionError
from tiers.proven import Proven

PADDING = (0, 17, 40)


@pytest.fixture(scope="module")
def many_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every head has keys of its own."""
    return save_model(tmp_path_factory.mktemp("heads"), "llama", num_key_value_heads=4, num_hidden_layers=2)


@on_every_device
@pytest.mark.parametrize("batch", [1, 3])
def test_tokens_over_several_blocks(tiny_llama: Path, device: str, batch: int) -> None:
    inputs = make_inputs(110, PADDING[:batch])
    with graphed(tiny_llama, device, prompt_tokens=110, new_tokens=40, batch=batch) as (model, graphs):
        assert model.runtime.kv.block_tokens == 64
        assert generate(model, on(device, inputs), 40) == generate(plain_model(tiny_llama), inputs, 40)
        # The first token comes with the prompt; the second shows whether the graph is right.
        assert (graphs.num_replays, graphs.notes) == (38, [])


@on_every_device
def test_longer_than_the_first_graph_has_room_for(many_heads: Path, tmp_path: Path, device: str) -> None:
    path = save_model(tmp_path, "llama", num_key_value_heads=4, num_hidden_layers=2, max_position_embeddings=2048)
    inputs = make_inputs(1020)
    with graphed(path, device, prompt_tokens=1020, new_tokens=12) as (model, graphs):
        assert generate(model, on(device, inputs), 12) == generate(plain_model(path), inputs, 12)
        assert graphs.num_replays == 9
        if device == "cpu":
            assert isinstance(graphs._backend, RecordedGraphs)
            assert len(graphs._backend.graphs) == 2


@on_every_device
def test_two_conversations_in_turn(many_heads: Path, device: str) -> None:
    """One graph for both: where their tokens lie is told to it."""
    plain = plain_model(many_heads)
    with graphed(many_heads, device, prompt_tokens=40, new_tokens=40, batch=2) as (model, graphs):
        said = [make_inputs(10 + n)["input_ids"] for n in range(2)]
        caches = [model.new_cache() for _ in said]
        for _ in range(2):
            for n, cache in enumerate(caches):
                inputs = {"input_ids": said[n], "attention_mask": torch.ones_like(said[n])}
                found = generate(model, on(device, inputs), 6, past_key_values=cache)
                assert found == generate(plain, inputs, 6)
                said[n] = torch.cat([said[n], torch.tensor(found), torch.tensor([[7, 8, 9]])], 1)
        assert graphs.num_replays == 4 * 5 - 1
        for cache in caches:
            cache.close()


@on_every_device
def test_a_row_whose_next_block_is_taken(many_heads: Path, device: str) -> None:
    """Nothing has happened then, and the step is done without a graph."""
    plain = plain_model(many_heads)
    inputs = make_inputs(60)
    with graphed(many_heads, device, prompt_tokens=200, new_tokens=40) as (model, graphs):
        first, second = model.new_cache(), model.new_cache()
        for cache in (first, second):
            with torch.inference_mode():
                model(**on(device, inputs), past_key_values=cache)
            cache.crop(59)
        expected = generate(plain, inputs, 12)
        for cache in (second, first):
            assert generate(model, on(device, inputs), 12, past_key_values=cache) == expected
        assert graphs.num_replays
        assert graphs.notes == ["CUDA graphs: the tokens of a sequence do not lie side by side"]
        first.close()
        second.close()


@on_every_device
def test_beams_rollbacks_and_copies(many_heads: Path, device: str) -> None:
    plain = plain_model(many_heads)
    inputs = make_inputs(20)
    with graphed(many_heads, device, prompt_tokens=40, new_tokens=40, batch=3) as (model, graphs):
        beams = {"num_beams": 3, "early_stopping": False}
        assert generate(model, on(device, inputs), 8, **beams) == generate(plain, inputs, 8, **beams)
        expected = generate(plain, inputs, 8)
        with model.new_cache() as cache:
            assert generate(model, on(device, inputs), 8, past_key_values=cache) == expected
            cache.crop(19)
            with copy.deepcopy(cache) as other:
                assert generate(model, on(device, inputs), 8, past_key_values=other) == expected
            assert generate(model, on(device, inputs), 8, past_key_values=cache) == expected
        assert graphs.num_replays


@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen3", "gemma", "granite", "llama 3 positions"])
def test_other_families(tmp_path: Path, family: str) -> None:
    """Learned positions, biases, norms of heads, scaled embeddings, other frequencies."""
    kind, changes = FAMILIES[family]
    path = save_model(tmp_path, kind, **changes)
    inputs = make_inputs(20, (0, 5))
    with graphed(path, "cpu", prompt_tokens=20, new_tokens=8, batch=2) as (model, graphs):
        assert generate(model, inputs, 8) == generate(plain_model(path), inputs, 8)
        assert (graphs.num_replays, graphs.notes) == (6, [])


@on_every_device
def test_a_model_that_looks_at_its_numbers(many_heads: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """It runs as before, random numbers included, which a capture that was broken off would have spoilt."""
    inputs = make_inputs(20)
    with graphed(many_heads, device, prompt_tokens=20, new_tokens=8) as (model, graphs):
        norm = model.model.norm
        as_it_is = norm.forward
        monkeypatch.setattr(norm, "forward", lambda hidden: as_it_is(hidden / max(1.0, float(hidden.max()) - 1e6)))
        assert generate(model, on(device, inputs)) == generate(plain_model(many_heads), inputs)
        assert generate(model, on(device, inputs), do_sample=True)
        assert not graphs.num_replays
        (note,) = graphs.notes
        assert note.startswith("CUDA graphs: a step cannot be captured (RuntimeError: ")
        assert "waits for the device" in note


@on_every_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tmp_path: Path, device: str, dtype: torch.dtype) -> None:
    path = save_model(tmp_path, "llama", dtype=dtype)
    with graphed(path, device, prompt_tokens=30, new_tokens=8) as (model, graphs):
        generate(model, on(device, make_inputs(30)))
        assert (graphs.num_replays, graphs.notes) == (6, [])


def wrong_pieces(*given: Any) -> tuple[Tensor, Tensor]:
    outputs, logsumexps = plain_pieces(*given)
    return outputs + 1, logsumexps


class Lazy(RecordedGraphs):
    """Graphs that do nothing but to have been captured."""

    def capture(self, step: Any) -> RecordedGraph:
        graph = super().capture(step)
        with torch.inference_mode():
            step()
        return RecordedGraph(graph.output, [])


class Failing(RecordedGraphs):
    """Graphs that do not get far, and leave their traces in the arena."""

    def capture(self, step: Any) -> RecordedGraph:
        step()
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nwhatever else it says")


class Growing(RecordedGraphs):
    """Graphs that turn out to be large."""

    def capture(self, step: Any) -> RecordedGraph:
        self.nbytes += SET_ASIDE_NBYTES + 2**20
        return super().capture(step)


class Starved(RecordedGraphs):
    """Graphs for which there is no memory, but for those of one row."""

    def capture(self, step: Any) -> RecordedGraph:
        if len(step()) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().capture(step)


FLAWS: list[tuple[dict[str, Any], str]] = [
    ({"kernel_for": lambda *_: Proven(wrong_pieces)}, "a replay gives something else (relative error "),
    ({"backend": Lazy()}, "a replay gives something else (relative error nan)"),
    ({"backend": Failing()}, "a step cannot be captured (RuntimeError: CUDA error: operation not permitted when"),
    ({"kernel_for": lambda *_: Proven(None, "no compiler")}, "a step cannot be captured (ModelError: no"),
    ({"backend": RecordedGraphs(SET_ASIDE_NBYTES + 1)}, "none for 2 rows of up to 1024 tokens: with it all would keep"),
    ({"backend": Growing()}, "none for 2 rows of up to 1024 tokens: with it all would keep 129MiB"),
    ({"backend": Starved()}, "none for 2 rows of up to 1024 tokens: there is not enough memory to capture one"),
    ({"obstacle": "it is like that"}, "it is like that"),
]


@pytest.mark.parametrize(("options", "note"), FLAWS, ids=[note[:20] for _, note in FLAWS])
def test_none_is_used_that_has_not_proved_right(many_heads: Path, options: dict[str, Any], note: str) -> None:
    inputs = make_inputs(20, (0, 3))
    with loaded(many_heads, prompt_tokens=20, new_tokens=8, batch=2) as model:
        graphs = record_steps(model, **options)
        assert generate(model, inputs) == generate(plain_model(many_heads), inputs)
        assert not graphs.num_replays
        (said,) = model.runtime.notes
        assert said.startswith(f"CUDA graphs: {note}"), said


def step_of(model: OffloadedModel, cache: Any, token: int, **more: Any) -> Any:
    place = torch.tensor([[cache.get_seq_length()]])
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[token]]), position_ids=place, past_key_values=cache, **more)


def test_what_asks_for_more_than_the_device_knows(many_heads: Path) -> None:
    """Each is told once, and does not keep later steps from being done by a graph."""
    calls: list[int] = []
    with graphed(many_heads, "cpu", prompt_tokens=40, new_tokens=40) as (model, graphs), model.new_cache() as cache:
        with torch.inference_mode():
            model(**make_inputs(20), past_key_values=cache)
        step_of(model, cache, 3)
        step_of(model, cache, 4)
        assert (graphs.num_replays, graphs.notes) == (1, [])
        handle = model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
        step_of(model, cache, 5)
        handle.remove()
        assert calls == [1]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
            step_of(model, cache, 6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            step_of(model, cache, 7)
        holes = torch.ones(1, cache.get_seq_length() + 1, dtype=torch.int64)
        holes[0, 3] = 0
        step_of(model, cache, 8, attention_mask=holes)
        with torch.inference_mode():
            model(torch.tensor([[9]]), past_key_values=cache)
            model(input_ids=torch.tensor([[9]]), past_key_values=cache)
            model(inputs_embeds=torch.zeros(1, 1, 64), past_key_values=cache)
        assert graphs.num_replays == 1
        step_of(model, cache, 10)
        assert graphs.num_replays == 2
        assert step_of(model, cache, 11, output_hidden_states=True).hidden_states is not None
        step_of(model, cache, 12)
        assert graphs.num_replays == 3  # the hooks that transformers left in the model do nothing
        model.requires_grad_()
        place = torch.tensor([[cache.get_seq_length()]])
        assert model(input_ids=torch.tensor([[13]]), position_ids=place, past_key_values=cache).logits.requires_grad
        assert graphs.num_replays == 3
        assert [note.removeprefix("CUDA graphs: ") for note in graphs.notes] == [
            "modules have hooks",
            "a profiler looks for the kernels of each layer",
            "the model is in training or under autocast",
            "there is padding between tokens",
            "inputs are given without their names",
            "input_ids or position_ids are not given, one for each row",
            "inputs_embeds is given",
            "output_hidden_states is given",
            "gradients are asked for",
        ]


def test_an_answer_outlives_the_next_step(many_heads: Path) -> None:
    with graphed(many_heads, "cpu", prompt_tokens=40, new_tokens=40) as (model, graphs), model.new_cache() as cache:
        with torch.inference_mode():
            model(**make_inputs(20), past_key_values=cache)
        logits = [step_of(model, cache, token).logits for token in (3, 4, 5)]
        kept = [one.clone() for one in logits]
        answer = step_of(model, cache, 6)
        assert all(torch.equal(one, other) for one, other in zip(logits, kept, strict=True))
        assert answer.past_key_values is cache
        assert graphs.num_replays == 3
        hits = model.runtime.kv.manager.stats.hits
        step_of(model, cache, 7)
        assert model.runtime.kv.manager.stats.hits == hits + 2  # a block in each layer


def test_a_token_that_is_none(many_heads: Path) -> None:
    """It is found before anything has happened."""
    with graphed(many_heads, "cpu", prompt_tokens=40, new_tokens=40) as (model, graphs), model.new_cache() as cache:
        with torch.inference_mode():
            model(**make_inputs(20), past_key_values=cache)
        first, _ = (step_of(model, cache, 3) for _ in range(2))
        with pytest.raises(IndexError, match="token id outside"):
            step_of(model, cache, 10**6)
        assert cache.get_seq_length() == 22
        cache.crop(20)
        assert torch.allclose(step_of(model, cache, 3).logits, first.logits, atol=1e-5)
        assert graphs.num_replays == 2


def test_a_batch_that_the_cache_does_not_hold(many_heads: Path) -> None:
    with graphed(many_heads, "cpu", prompt_tokens=40, new_tokens=40) as (model, graphs), model.new_cache() as cache:
        with torch.inference_mode():
            model(**make_inputs(20), past_key_values=cache)
            two = {"input_ids": torch.tensor([[3], [4]]), "position_ids": torch.full((2, 1), 20)}
            with pytest.raises(InvalidOptionError, match="holds 1 sequences, but 2 are given"):
                model(**two, past_key_values=cache)
        step_of(model, cache, 3)
        step_of(model, cache, 4)
        assert graphs.num_replays == 1


def test_none_after_the_model_is_closed(many_heads: Path) -> None:
    with graphed(many_heads, "cpu", prompt_tokens=20, new_tokens=8) as (model, graphs):
        generate(model, make_inputs(20))
        assert graphs._captured
        model.close()
        assert not graphs._captured


def test_memory_that_one_batch_takes_keeps_no_other_from_graphs(many_heads: Path) -> None:
    plain = plain_model(many_heads)
    with loaded(many_heads, prompt_tokens=20, new_tokens=8, batch=2) as model:
        graphs = record_steps(model, Starved())
        for padding in ((0,), (0, 3), (0,)):
            inputs = make_inputs(20, padding)
            assert generate(model, inputs) == generate(plain, inputs)
        assert graphs.num_replays == 6 + 7
        assert len(graphs.notes) == 1


def test_outputs_of_many_pieces_are_counted_beforehand(many_heads: Path) -> None:
    """Nothing is captured then."""
    with loaded(many_heads, prompt_tokens=20, new_tokens=8) as model:
        backend = RecordedGraphs()
        graphs = record_steps(model, backend, most_nbytes=4 * 4 * (16 + 1) * 8 - 1)
        generate(model, make_inputs(20))
        assert (graphs.num_replays, backend.graphs) == (0, [])
        graphs = record_steps(model, backend, most_nbytes=4 * 4 * (16 + 1) * 8)
        generate(model, make_inputs(20))
        assert graphs.num_replays == 6


def test_an_interrupted_replay_leaves_no_token(many_heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(step: CapturedStep) -> Tensor:
        raise KeyboardInterrupt

    with graphed(many_heads, "cpu", prompt_tokens=40, new_tokens=40) as (model, graphs), model.new_cache() as cache:
        with torch.inference_mode():
            model(**make_inputs(20), past_key_values=cache)
        step_of(model, cache, 3)
        expected = step_of(model, cache, 4).logits
        cache.crop(21)
        with monkeypatch.context() as patch:
            patch.setattr(CapturedStep, "replay", interrupt)
            with pytest.raises(KeyboardInterrupt):
                step_of(model, cache, 5)
        assert cache.get_seq_length() == 21
        assert torch.equal(step_of(model, cache, 4).logits, expected)
        assert graphs.num_replays == 2


def test_a_cache_of_another_model(many_heads: Path) -> None:
    """As far as nobody checks it: it is not replayed with what lies at its places in this model's arena."""
    sizes = {"prompt_tokens": 40, "new_tokens": 40}
    with graphed(many_heads, "cpu", **sizes) as (one, graphs), graphed(many_heads, "cpu", **sizes) as (other, _):
        with one.new_cache() as own, other.new_cache() as cache, torch.inference_mode():
            one(**make_inputs(20), past_key_values=own)
            other(**make_inputs(25), past_key_values=cache)
            for token in (3, 4):
                step_of(one, own, token)
            expected = step_of(other, cache, 3).logits
            cache.crop(25)
            inputs = {"input_ids": torch.tensor([[3]]), "position_ids": torch.tensor([[25]])}
            found = one.forward(**inputs, past_key_values=cache).logits
            assert torch.allclose(found, expected, atol=1e-5)
        assert graphs.num_replays == 1
        assert graphs.notes == ["CUDA graphs: past_key_values is of another model"]
