"""Tokens are sacred: greedy generation equals plain transformers in float32, whatever the budget."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import offload
from offload.offloaded_model import OffloadedModel
from tiers.errors import BudgetError

NEW_TOKENS = 6
PROMPTS = (1, 15, 16, 17, 512, 4000)


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> PreTrainedModel:
    return plain_model(tiny_llama)


def plain_model(path: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.eval()
    return model


def load(path: Path, prompt: int, batch: int, budget: dict[str, Any]) -> OffloadedModel:
    return offload.load(path, prompt_tokens=prompt, new_tokens=NEW_TOKENS, batch=batch, **budget)


def make_inputs(vocabulary: int, prompt: int, batch: int) -> dict[str, Tensor]:
    """Random tokens; every row but the first of a batch is padded on the left, each by another length."""
    generator = torch.Generator().manual_seed(prompt * 10 + batch)
    ids = torch.randint(2, vocabulary, (batch, prompt), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        mask[row, : min(prompt - 1, row * prompt // 5)] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generate(model: PreTrainedModel, inputs: dict[str, Tensor], new_tokens: int = NEW_TOKENS) -> list[list[int]]:
    with torch.inference_mode():
        output: Tensor = model.generate(  # type: ignore[operator]  # transformers hides it behind a mixin
            **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )
    return output[:, inputs["input_ids"].shape[1] :].tolist()


def budgets(path: Path, nvme_dir: Path, prompt: int, batch: int) -> Iterator[dict[str, object]]:
    """Everything resident; the smallest budget there is; and some between them, with a host tier and without."""
    yield {}
    try:
        load(path, prompt, batch, {"device_memory": 0, "nvme_dir": nvme_dir})
    except BudgetError as error:
        least = error.wanted_bytes
    for factor in (1.0, 1.1, 1.5, 2.5):
        yield {"device_memory": int(least * factor), "nvme_dir": nvme_dir}
    yield {"device_memory": int(least * 1.2), "host_memory": "64KiB", "nvme_dir": nvme_dir}


def check(path: Path, plain: PreTrainedModel, nvme_dir: Path, prompt: int, batch: int) -> None:
    inputs = make_inputs(plain.config.vocab_size, prompt, batch)
    expected = generate(plain, inputs)
    for budget in budgets(path, nvme_dir, prompt, batch):
        model = load(path, prompt, batch, budget)
        try:
            assert generate(model, inputs) == expected, budget
            manager = model.runtime.kv.manager
            manager.check()
            assert manager.levels[0].pool.num_used == 0, "every block was given back"
        finally:
            model.close()
    assert not nvme_dir.exists()


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_tiny_model_at_every_budget(
    tiny_llama: Path, tiny: PreTrainedModel, tmp_path: Path, prompt: int, batch: int
) -> None:
    check(tiny_llama, tiny, tmp_path / "nvme", prompt, batch)


@pytest.mark.parametrize(("prompt", "batch"), [(17, 1), (300, 1), (40, 4)])
def test_real_model_at_a_quarter_of_its_weights(smollm2: Path, tmp_path: Path, prompt: int, batch: int) -> None:
    """Weights are streamed and the KV cache spills to the drive."""
    plain = plain_model(smollm2)
    inputs = make_inputs(plain.config.vocab_size, prompt, batch)
    expected = generate(plain, inputs)
    model = load(smollm2, prompt, batch, {"device_memory": "128MiB", "nvme_dir": tmp_path / "nvme"})
    try:
        assert model.plan.streamed
        assert generate(model, inputs) == expected
    finally:
        model.close()


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_real_model_at_every_budget(smollm2: Path, tmp_path: Path, prompt: int, batch: int) -> None:
    check(smollm2, plain_model(smollm2), tmp_path / "nvme", prompt, batch)
