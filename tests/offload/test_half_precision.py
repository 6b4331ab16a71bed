"""Half precision: logits within the type's tolerance, all resident and from the smallest budget."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from offload.offloaded_model import OffloadedModel
from tests.offload.zoo import loaded, make_inputs, plain_model, save_model, smallest_budget


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text"])
def test_half_precision(tmp_path: Path, model_type: str, dtype: torch.dtype) -> None:
    """Logits within the type's tolerance; a token differs only where the two best are closer than that."""
    path = save_model(tmp_path / "model", model_type, dtype=dtype, head_dim=16)
    workload: dict[str, Any] = {"prompt_tokens": 150, "new_tokens": 8, "batch": 2}
    least = smallest_budget(path, tmp_path / "nvme", **workload)
    inputs = make_inputs(150, (0, 75))
    plain = plain_model(path, dtype)
    for budget in ({}, {"device_memory": least, "nvme_dir": tmp_path / "nvme"}):
        with loaded(path, **workload, **budget) as model:
            assert model.dtype == dtype
            compare_steps(plain, model, inputs, 8)


def compare_steps(plain: PreTrainedModel, model: OffloadedModel, inputs: dict[str, Any], steps: int) -> None:
    """Feed both the same tokens and compare their logits at every step."""
    tolerance = 0.15 if model.dtype == torch.bfloat16 else 0.02
    mask, ids = inputs["attention_mask"], inputs["input_ids"]
    with model.new_cache() as cache, torch.inference_mode():
        expected_cache = None
        for _ in range(steps):
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            given = {"attention_mask": mask, "position_ids": positions, "logits_to_keep": 1}
            answer = model(ids, past_key_values=cache, **given)
            expected = plain(ids, past_key_values=expected_cache, **given)
            expected_cache = expected.past_key_values
            scale = expected.logits.float().std()
            error = (answer.logits.float() - expected.logits.float()).abs().amax(-1)
            assert (error < tolerance * scale).all()
            best = expected.logits.float().topk(2).values
            is_same = answer.logits.argmax(-1) == expected.logits.argmax(-1)
            assert (is_same | (best[..., 0] - best[..., 1] < tolerance * scale)).all()
            ids = expected.logits.argmax(-1)
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
