"""What transformers' generate can do, through an offloaded model: the same tokens, and nothing left behind."""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, StaticCache
from transformers.generation.utils import GenerateDecoderOnlyOutput

from offload.kv.cache import TieredCache
from offload.offloaded_model import OffloadedModel
from offload.old_transformers import is_old
from tests.offload.zoo import VOCABULARY, generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tiers.errors import InvalidOptionError, ModelError, TierFullError

PROMPT = 100
WORKLOAD: dict[str, Any] = {"prompt_tokens": PROMPT, "new_tokens": 60, "batch": 4}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a window of 40 tokens in every other layer."""
    layers = ["sliding_attention", "full_attention"] * 2
    return save_model(
        tmp_path_factory.mktemp("m"), "qwen2", layer_types=layers, sliding_window=40, use_sliding_window=True
    )


@pytest.fixture(scope="module")
def plain(path: Path) -> PreTrainedModel:
    return plain_model(path)


@pytest.fixture(scope="module", params=["all resident", "streamed"])
def budget(request: pytest.FixtureRequest, path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if request.param == "all resident":
        return {}
    nvme_dir = tmp_path_factory.mktemp("scratch") / "nvme"
    return {"device_memory": int(1.1 * smallest_budget(path, nvme_dir, **WORKLOAD)), "nvme_dir": nvme_dir}


@pytest.fixture
def model(path: Path, budget: dict[str, Any]) -> Iterator[OffloadedModel]:
    with loaded(path, **WORKLOAD, **budget) as model:
        yield model


def both(
    plain: PreTrainedModel, model: OffloadedModel, inputs: dict[str, Any], new_tokens: int = 12, **options: Any
) -> list[list[int]]:
    """The tokens, once plain and offloaded agree on them."""
    expected = generate(plain, inputs, new_tokens, **options)
    assert generate(model, inputs, new_tokens, **options) == expected
    return expected


@pytest.mark.parametrize(
    "beams", [{"num_beams": 2}, {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0}]
)
def test_beam_search(plain: PreTrainedModel, model: OffloadedModel, beams: dict[str, Any]) -> None:
    """Across a border of blocks, so that beams share full ones and copy those that are not."""
    both(plain, model, make_inputs(PROMPT), 40, **beams)


@pytest.mark.parametrize("prompt", [10, 130])
def test_beams_that_fill_all_there_is(path: Path, plain: PreTrainedModel, prompt: int) -> None:
    """Planned for as many sequences as there are beams: one that ends leaves the room for a copy of another."""
    with loaded(path, prompt_tokens=prompt, new_tokens=8, batch=4) as model:
        both(plain, model, make_inputs(prompt), 8, num_beams=4)


def test_beam_search_in_a_batch(plain: PreTrainedModel, model: OffloadedModel) -> None:
    both(plain, model, make_inputs(30, (0, 7)), num_beams=2)


def test_sampling(plain: PreTrainedModel, model: OffloadedModel) -> None:
    inputs = make_inputs(40, (0, 11))
    options: dict[str, Any] = {"do_sample": True, "num_return_sequences": 2, "top_k": 20, "temperature": 0.7}
    torch.manual_seed(3)
    expected = generate(plain, inputs, **options)
    torch.manual_seed(3)
    assert generate(model, inputs, **options) == expected


def test_prompt_lookup(plain: PreTrainedModel, model: OffloadedModel) -> None:
    """Drafted tokens that are not taken are rolled back, in layers with a window too."""
    inputs = make_inputs(30)
    inputs = {name: tensor.repeat(1, 3) for name, tensor in inputs.items()}  # something to find
    both(plain, model, inputs, 40, prompt_lookup_num_tokens=5)


def test_assisted_generation(plain: PreTrainedModel, model: OffloadedModel) -> None:
    """With the very same model as the assistant all is taken; with another one hardly anything."""
    both(plain, model, make_inputs(50), 40, assistant_model=copy.deepcopy(plain))
    other = copy.deepcopy(plain)
    for parameter in other.parameters():
        parameter.data += 0.05
    both(plain, model, make_inputs(50), 20, assistant_model=other)


def test_drafts_after_a_used_cache_are_refused(plain: PreTrainedModel, model: OffloadedModel) -> None:
    """transformers itself answers with other tokens then."""
    drafts: list[dict[str, Any]] = [{"assistant_model": plain}, {"prompt_lookup_num_tokens": 3}]
    with model.new_cache() as cache:
        generate(model, make_inputs(20), past_key_values=cache)
        for options in drafts:
            with pytest.raises(InvalidOptionError, match="pass a new cache"):
                generate(model, make_inputs(60), past_key_values=cache, **options)


def test_as_an_assistant(plain: PreTrainedModel, model: OffloadedModel) -> None:
    inputs = make_inputs(50)
    assert generate(plain, inputs, 20, assistant_model=model) == generate(plain, inputs, 20)


@pytest.mark.parametrize("padding", [(0,), (0, 33)])
def test_without_a_cache(plain: PreTrainedModel, model: OffloadedModel, padding: tuple[int, ...]) -> None:
    both(plain, model, make_inputs(PROMPT, padding), 4, use_cache=False)
    assert model.generation_config.use_cache is not False


def test_masks_with_holes(plain: PreTrainedModel, model: OffloadedModel) -> None:
    """Padding on the left, in the middle and, where the prompt has ended early, on the right."""
    inputs = make_inputs(PROMPT, (0, 20, 0, 5))
    inputs["attention_mask"][1, 50:60] = 0
    inputs["attention_mask"][2, 70:90] = 0
    inputs["attention_mask"][3, 8] = 0
    both(plain, model, inputs)


@pytest.mark.parametrize("tokens", [60, PROMPT])
def test_embeddings_as_input(plain: PreTrainedModel, model: OffloadedModel, tokens: int) -> None:
    """transformers cannot take them in pieces, so that in a small budget there cannot be many."""
    embeddings = plain.get_input_embeddings()(make_inputs(tokens)["input_ids"])
    options: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
    with torch.inference_mode():
        expected = plain.generate(inputs_embeds=embeddings, **options)  # type: ignore[operator]
        if tokens > (model.runtime.prefill_chunk_tokens or tokens):
            with pytest.raises(InvalidOptionError, match="inputs_embeds of 100 tokens: this budget takes 64 at a time"):
                model.generate(inputs_embeds=embeddings, **options)
        else:
            assert torch.equal(model.generate(inputs_embeds=embeddings, **options), expected)


@pytest.mark.parametrize("longer", [30, PROMPT])
def test_a_conversation_in_one_cache(plain: PreTrainedModel, model: OffloadedModel, longer: int) -> None:
    """Turns that are shorter than a piece of the prompt, and longer, which takes a transformers that can do that."""
    has_pieces = longer > (model.runtime.prefill_chunk_tokens or longer)
    refused = pytest.raises(InvalidOptionError, match="upgrade transformers") if has_pieces and is_old() else None
    with refused or nullcontext(), model.new_cache() as cache:
        plain_cache = DynamicCache(config=plain.config)
        inputs = make_inputs(40, (0, 9))
        for turn in (longer, 5):
            said = generate(model, inputs, 6, past_key_values=cache)
            assert said == generate(plain, inputs, 6, past_key_values=plain_cache)
            more = make_inputs(turn, (0, 0))["input_ids"]
            ids = torch.cat([inputs["input_ids"], torch.tensor(said), more], 1)
            mask = torch.cat([inputs["attention_mask"], torch.ones_like(ids[:, inputs["input_ids"].shape[1] :])], 1)
            inputs = {"input_ids": ids, "attention_mask": mask}
        assert cache.get_seq_length() == plain_cache.get_seq_length() > 0


def test_one_prompt_many_answers(plain: PreTrainedModel, model: OffloadedModel) -> None:
    """A copied cache is continued by each, as transformers recommends for prompts that are used again."""
    prompt = make_inputs(PROMPT)
    with model.new_cache() as cache, torch.inference_mode():
        model(**prompt, past_key_values=cache)
        for question in (7, 3):
            ids = torch.cat([prompt["input_ids"], make_inputs(question)["input_ids"]], 1)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with copy.deepcopy(cache) as twin:
                assert generate(model, inputs, past_key_values=twin) == generate(plain, inputs)


def test_steps_by_hand(plain: PreTrainedModel, model: OffloadedModel) -> None:
    """The loop of those who call the model themselves: it gets a cache of ours without asking."""
    inputs = make_inputs(PROMPT)
    ids, cache, expected_cache = inputs["input_ids"], None, None
    with torch.inference_mode():
        for _ in range(3):
            answer = model(ids, past_key_values=cache)
            expected = plain(ids, past_key_values=expected_cache)
            torch.testing.assert_close(answer.logits, expected.logits, atol=1e-4, rtol=1e-4)
            cache, expected_cache = answer.past_key_values, expected.past_key_values
            assert isinstance(cache, TieredCache)
            ids = expected.logits[:, -1:].argmax(-1)


def test_many_forward_passes_leave_nothing(model: OffloadedModel) -> None:
    """As for the perplexity of a text: each answer holds a cache, and is dropped."""
    inputs = make_inputs(PROMPT)
    with torch.inference_mode():
        for _ in range(20):
            model(**inputs)


def test_answers_that_hold_their_cache(plain: PreTrainedModel, model: OffloadedModel) -> None:
    inputs = make_inputs(PROMPT)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    with torch.inference_mode():
        for _ in range(12):
            answer = model.generate(**inputs, **options)
            assert isinstance(answer, GenerateDecoderOnlyOutput)
            assert isinstance(answer.past_key_values, TieredCache)
            assert answer.past_key_values.get_seq_length() == PROMPT + 3
        expected = plain.generate(**inputs, **options)  # type: ignore[operator]
    assert torch.equal(answer.sequences, expected.sequences)


def test_a_generation_config_is_not_changed(plain: PreTrainedModel, model: OffloadedModel) -> None:
    """Its prompt is taken in pieces all the same, or it would not keep within the budget."""
    given = GenerationConfig(max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=2)
    before = given.to_dict()
    sizes = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _, args, out: sizes.append(args[0].shape[1]))
    inputs = make_inputs(PROMPT)
    with torch.inference_mode():
        answers = [model.generate(inputs["input_ids"], given), model.generate(**inputs, generation_config=given)]
        expected = plain.generate(**inputs, generation_config=given)  # type: ignore[operator]
    handle.remove()
    assert all(torch.equal(answer, expected) for answer in answers)
    assert given.to_dict() == before
    assert max(sizes) == (model.runtime.prefill_chunk_tokens or PROMPT)


def test_pieces_of_the_callers_choice(plain: PreTrainedModel, model: OffloadedModel) -> None:
    sizes = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _, args, out: sizes.append(args[0].shape[1]))
    both(plain, model, make_inputs(PROMPT), prefill_chunk_size=30)
    handle.remove()
    assert sizes[:4] == [30, 30, 30, 10]


def test_a_cache_of_transformers_making_is_refused(model: OffloadedModel) -> None:
    inputs = make_inputs(20)
    with pytest.raises(
        InvalidOptionError, match="cache_implementation='static': the KV cache of this model is in tiers"
    ):
        generate(model, inputs, cache_implementation="static")
    for cache in (DynamicCache(), StaticCache(config=model.config, max_cache_len=50)):
        name = type(cache).__name__
        with pytest.raises(InvalidOptionError, match=f"{name} is not a cache of this model; pass model.new_cache"):
            generate(model, inputs, past_key_values=cache)
        with pytest.raises(InvalidOptionError, match=f"{name} is not a cache of this model"):
            model(**inputs, past_key_values=cache)


def test_the_cache_of_another_model_is_refused(model: OffloadedModel, path: Path) -> None:
    with (
        loaded(path, **WORKLOAD) as other,
        pytest.raises(InvalidOptionError, match="TieredCache is not a cache of this"),
    ):
        generate(model, make_inputs(20), past_key_values=other.new_cache())


def test_masks_that_cannot_be_followed_are_refused(model: OffloadedModel) -> None:
    ids = make_inputs(20)["input_ids"]
    with pytest.raises(ModelError, match="attention masks of queries x keys"):
        model(ids, attention_mask=torch.ones(1, 1, 20, 20, dtype=torch.bool))
    with pytest.raises(InvalidOptionError, match="attention_mask covers 7 tokens, but there are 20"):
        model(ids, attention_mask=torch.ones(1, 7, dtype=torch.long))


def test_tokens_that_are_not_in_the_vocabulary(plain: PreTrainedModel, model: OffloadedModel) -> None:
    with pytest.raises(IndexError, match="token id outside"):
        generate(model, {"input_ids": torch.tensor([[5, VOCABULARY]])})
    both(plain, model, make_inputs(20))


def test_more_than_the_budget_holds(path: Path, tmp_path: Path, plain: PreTrainedModel) -> None:
    """A prompt far beyond what was planned for ends in an error, not in more memory; the next one works."""
    with loaded(path, prompt_tokens=20, new_tokens=20, batch=1) as model:
        with pytest.raises(TierFullError, match="tier 'device' is full"):
            generate(model, make_inputs(400))
        both(plain, model, make_inputs(20))


def test_growing_beyond_the_plan(path: Path, tmp_path: Path, plain: PreTrainedModel) -> None:
    """Where there is room on a drive, a longer prompt than was planned for works."""
    workload: dict[str, Any] = {"prompt_tokens": 80, "new_tokens": 20, "batch": 1}
    least = smallest_budget(path, tmp_path / "nvme", **workload)
    with loaded(path, device_memory=least, nvme_dir=tmp_path / "nvme", **workload) as model:
        both(plain, model, make_inputs(400))


@pytest.mark.parametrize("policy", ["lru", "arc", "s3fifo", "lirs", "w_tinylfu", "prefix_depth"])
def test_any_policy_gives_the_same_tokens(path: Path, tmp_path: Path, plain: PreTrainedModel, policy: str) -> None:
    least = smallest_budget(path, tmp_path / "nvme", **WORKLOAD)
    with loaded(path, device_memory=least, nvme_dir=tmp_path / "nvme", kv_policy=policy, **WORKLOAD) as model:
        assert model.plan.kv_nvme_blocks
        both(plain, model, make_inputs(PROMPT), 12)


def test_latents(tmp_path: Path) -> None:
    """Beams, drafts that are rolled back and masks with holes, where heads read latents out of blocks on a drive."""
    sizes: dict[str, Any] = {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "num_key_value_heads": 4}
    path = save_model(tmp_path / "model", "minicpm3", kv_lora_rank=24, q_lora_rank=16, **sizes)
    plain = plain_model(path)
    least = smallest_budget(path, tmp_path / "nvme", **WORKLOAD)
    holes = make_inputs(PROMPT, (0, 20))
    holes["attention_mask"][1, 50:60] = 0
    with loaded(path, device_memory=int(1.1 * least), nvme_dir=tmp_path / "nvme", **WORKLOAD) as model:
        assert model.plan.kv_nvme_blocks
        both(plain, model, make_inputs(PROMPT), 40, num_beams=3)
        both(plain, model, make_inputs(30), 40, prompt_lookup_num_tokens=5)
        both(plain, model, holes)
        both(plain, model, make_inputs(PROMPT), 4, use_cache=False)
