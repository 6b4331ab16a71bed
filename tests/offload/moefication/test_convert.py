"""From a dense model on disk to a mixture on disk, as transformers and the runtime find it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from offload.moefication.convert import MoeOptions, convert_to_moe
from offload.moefication.text import read_corpus
from offload.pack import pack
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tiers.errors import InvalidOptionError, ModelError

SMALL = MoeOptions(experts=8, top_k=2, calibration_tokens=2048, distill_tokens=0, held_out_tokens=1024)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "mistral": {"head_dim": 32, "sliding_window": None},
    "qwen2": {"tie_word_embeddings": True},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short, so that making tokens of it takes no time."""
    from pydoc_data.topics import topics

    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\n\n".join(topics[name] for name in sorted(topics))[:60_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def options(text: Path) -> MoeOptions:
    return replace(SMALL, text=text)


def save_dense(path: Path, tokenizer_of: Path, model_type: str = "llama", **changes: Any) -> Path:
    save_model(path, model_type, vocab_size=512, intermediate_size=128, **changes)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_of / name, path / name)
    return path


def logits(path: Path, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = plain_model(path)(input_ids=ids).logits
    return found


def held_out_ids(path: Path, options: MoeOptions) -> torch.Tensor:
    encoded = AutoTokenizer.from_pretrained(path)(read_corpus(options.text).held_out, return_tensors="pt")
    ids: torch.Tensor = encoded["input_ids"]
    return ids[:, : options.held_out_tokens]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_all_experts_active_is_the_dense_model(
    model_type: str, tiny_llama: Path, options: MoeOptions, tmp_path: Path
) -> None:
    dense = save_dense(tmp_path / "dense", tiny_llama, model_type, **FAMILIES[model_type])
    result = convert_to_moe(dense, tmp_path / "out", replace(options, top_k=8))
    assert result.active_share == 1
    assert result.overlap_next_token == 1
    assert result.perplexity == pytest.approx(result.perplexity_dense, rel=1e-4)
    ids = held_out_ids(dense, options)[:, :100]
    torch.testing.assert_close(logits(tmp_path / "out", ids), logits(dense, ids), rtol=1e-4, atol=1e-4)


def test_transformers_finds_what_was_measured(tiny_llama: Path, options: MoeOptions, tmp_path: Path) -> None:
    """Every weight has its place, the configuration is right, the tokenizer came along, and the perplexity is that."""
    out = tmp_path / "out"
    steps: list[tuple[int, int]] = []
    result = convert_to_moe(tiny_llama, out, options, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1]
    assert steps == sorted(steps)
    loading: Any = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    model, report = loading
    assert not any(report.values())
    config = model.config
    assert (config.num_local_experts, config.num_experts_per_tok, config.intermediate_size) == (8, 2, 8)
    assert config.shared_intermediate_size == result.shared_neurons == 64
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("offload")["input_ids"] == AutoTokenizer.from_pretrained(tiny_llama)("offload")["input_ids"]
    assert _perplexity(model, held_out_ids(out, options)) == pytest.approx(result.perplexity, rel=1e-4)
    assert 2 / 8 < result.overlap_next_token < 1 < result.load_skew < 8 / 2


def _perplexity(model: Any, ids: torch.Tensor) -> float:
    with torch.inference_mode():
        return float(model(ids, labels=ids).loss.exp())


def test_the_runtime_runs_it(tiny_llama: Path, options: MoeOptions, tmp_path: Path) -> None:
    convert_to_moe(tiny_llama, tmp_path / "out", options)
    inputs = make_inputs(24)
    expected = generate(plain_model(tmp_path / "out"), inputs)
    workload = {"prompt_tokens": 24, "new_tokens": 8}
    budget = smallest_budget(tmp_path / "out", tmp_path / "nvme", **workload)
    with loaded(tmp_path / "out", device_memory=budget, nvme_dir=tmp_path / "nvme", **workload) as model:
        assert generate(model, inputs) == expected
        assert model.plan.expert_slots == 2


def test_distillation_brings_the_mixture_nearer(tiny_llama: Path, options: MoeOptions, tmp_path: Path) -> None:
    convert_to_moe(tiny_llama, tmp_path / "untrained", options)
    distilled = convert_to_moe(tiny_llama, tmp_path / "distilled", replace(options, distill_tokens=8192))
    assert distilled.distill_tokens == 8192
    ids = held_out_ids(tiny_llama, options)
    dense = logits(tiny_llama, ids)
    far, near = ((logits(tmp_path / name, ids) - dense).pow(2).mean() for name in ("untrained", "distilled"))
    assert near < far


def test_the_same_again(tiny_llama: Path, options: MoeOptions, tmp_path: Path) -> None:
    options = replace(options, distill_tokens=3072)
    results = [convert_to_moe(tiny_llama, tmp_path / name, options) for name in ("a", "b")]
    assert replace(results[0], seconds=0) == replace(results[1], seconds=0)
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert a == b


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays(tiny_llama: Path, options: MoeOptions, tmp_path: Path, dtype: torch.dtype) -> None:
    """The weights of the router are not so small that they vanish."""
    dense = save_dense(tmp_path / "dense", tiny_llama, dtype=dtype)
    result = convert_to_moe(dense, tmp_path / "out", options)
    model = plain_model(tmp_path / "out", dtype)
    routers = [p for name, p in model.named_parameters() if name.endswith("router.weight")]
    assert all((router != 0).float().mean() > 0.99 for router in routers)
    found = _perplexity(model.float(), held_out_ids(dense, options))
    assert found == pytest.approx(result.perplexity, rel=0.05)  # a rounded router chooses a few other experts


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "mixture": ("mixtral", {"num_local_experts": 4}, "'mixtral' is a mixture of experts already"),
    "family": ("gpt_neox", {}, "'gpt_neox' cannot be converted; those that can are llama, mistral, qwen2"),
    "bias": ("llama", {"mlp_bias": True}, "feed-forward layers have biases"),
    "window": ("mistral", {"sliding_window": 16}, r"sliding_window=16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_are_refused(case: str, options: MoeOptions, tmp_path: Path) -> None:
    model_type, changes, complaint = REFUSED[case]
    dense = save_model(tmp_path / "dense", model_type, **changes)
    with pytest.raises(ModelError, match=complaint):
        convert_to_moe(dense, tmp_path / "out", options)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_requests_that_are_refused(tiny_llama: Path, options: MoeOptions, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    with pytest.raises(InvalidOptionError, match="text too short; 8 tokens where at least 512"):
        convert_to_moe(tiny_llama, tmp_path / "out", replace(options, text=short))
    with pytest.raises(InvalidOptionError, match="--top-k 9"):
        convert_to_moe(tiny_llama, tmp_path / "out", replace(options, top_k=9))
    with pytest.raises(InvalidOptionError, match="--shared-neurons 60"):
        convert_to_moe(tiny_llama, tmp_path / "out", replace(options, shared_neurons=60))
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="out: exists; remove it"):
        convert_to_moe(tiny_llama, tmp_path / "out", options)


def test_only_directories_of_safetensors(tiny_llama: Path, options: MoeOptions, tmp_path: Path) -> None:
    pack(tiny_llama, tmp_path / "packed")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for name in ("packed", "model.gguf"):
        with pytest.raises(ModelError, match=f"{name}: only a Hugging Face directory can be converted"):
            convert_to_moe(tmp_path / name, tmp_path / "out", options)


def test_no_tokenizer(options: MoeOptions, tmp_path: Path) -> None:
    dense = save_model(tmp_path / "dense", "llama")
    with pytest.raises(ModelError, match="dense: no tokenizer"):
        convert_to_moe(dense, tmp_path / "out", options)


def test_nothing_is_left_of_a_failure(tiny_llama: Path, options: MoeOptions, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_to_moe(tiny_llama, tmp_path / "out", options, progress=stop)
    assert not list(tmp_path.iterdir())


def test_the_result_is_json(tiny_llama: Path, options: MoeOptions, tmp_path: Path) -> None:
    data = json.loads(json.dumps(convert_to_moe(tiny_llama, tmp_path / "out", options).as_json()))
    wanted = {"perplexity_dense", "perplexity", "active_share", "overlap_next_token", "load_skew", "seconds", "seed"}
    assert wanted <= data.keys()


@pytest.mark.slow
def test_the_small_real_model(smollm2: Path, tmp_path: Path) -> None:
    """Half of the neurons, least squares on 16 K tokens: within 1.5 of the dense perplexity on unseen text."""
    result = convert_to_moe(smollm2, tmp_path / "out", MoeOptions(distill_tokens=16384, held_out_tokens=4096))
    assert result.active_share == 0.5
    assert result.perplexity < 1.5 * result.perplexity_dense
    assert result.overlap_next_token > 0.3
