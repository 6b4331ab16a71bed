"""Tokens are sacred: greedy generation equals plain transformers in float32, whatever the budget."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from tests.offload.zoo import generate, loaded, make_inputs, plain_model, smallest_budget

NEW_TOKENS = 6
PROMPTS = (1, 15, 16, 17, 512, 4000)
BATCHES = (1, 4)
FACTORS = (1.0, 1.1, 1.5, 2.5)


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> PreTrainedModel:
    return plain_model(tiny_llama)


@pytest.fixture(scope="module")
def real(smollm2: Path) -> PreTrainedModel:
    return plain_model(smollm2)


def inputs_for(plain: PreTrainedModel, prompt: int, batch: int) -> dict[str, Any]:
    """Every row but the first of a batch is padded on the left, each by another length."""
    padding = tuple(min(prompt - 1, row * prompt // 5) for row in range(batch))
    return make_inputs(prompt, padding, vocabulary=int(plain.config.vocab_size))


def budgets(path: Path, nvme_dir: Path, workload: dict[str, Any], factors: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Everything resident; so many times the smallest budget there is; and one with a host tier too."""
    yield {}
    least = smallest_budget(path, nvme_dir, **workload)
    for factor in factors:
        yield {"device_memory": int(least * factor), "nvme_dir": nvme_dir}
    yield {"device_memory": int(least * 1.2), "host_memory": "64KiB", "nvme_dir": nvme_dir}


def check(
    path: Path, plain: PreTrainedModel, nvme_dir: Path, prompt: int, batch: int, factors: Sequence[float] = FACTORS
) -> None:
    inputs = inputs_for(plain, prompt, batch)
    expected = generate(plain, inputs, NEW_TOKENS)
    workload = {"prompt_tokens": prompt, "new_tokens": NEW_TOKENS, "batch": batch}
    for budget in budgets(path, nvme_dir, workload, factors):
        with loaded(path, **workload, **budget) as model:
            assert generate(model, inputs, NEW_TOKENS) == expected, budget
    assert not nvme_dir.exists()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_tiny_model_at_every_budget(
    tiny_llama: Path, tiny: PreTrainedModel, tmp_path: Path, prompt: int, batch: int
) -> None:
    check(tiny_llama, tiny, tmp_path / "nvme", prompt, batch, FACTORS if prompt * batch < 10000 else FACTORS[::3])


@pytest.mark.parametrize(("prompt", "batch"), [(17, 1), (512, 1), (40, 4)])
def test_real_model_at_a_quarter_of_its_weights(
    smollm2: Path, real: PreTrainedModel, tmp_path: Path, prompt: int, batch: int
) -> None:
    """Weights are streamed, and where there are more blocks than one for each row, the KV cache spills to the drive."""
    inputs = inputs_for(real, prompt, batch)
    workload = {"prompt_tokens": prompt, "new_tokens": NEW_TOKENS, "batch": batch}
    budget = max(128 * 2**20, smallest_budget(smollm2, tmp_path / "nvme", **workload))
    with loaded(smollm2, device_memory=budget, nvme_dir=tmp_path / "nvme", **workload) as model:
        assert model.plan.streamed_nbytes > 0.5 * model.plan.resident_nbytes
        assert bool(model.plan.kv_nvme_blocks) == (prompt > 64)
        assert generate(model, inputs, NEW_TOKENS) == generate(real, inputs, NEW_TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_real_model_at_every_budget(
    smollm2: Path, real: PreTrainedModel, tmp_path: Path, prompt: int, batch: int
) -> None:
    check(smollm2, real, tmp_path / "nvme", prompt, batch)
