"""Many experts in one product: the same tokens as with one product each, whichever slots they are in."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from offload.experts.bind import experts_modules
from offload.experts.grouped import Choices, StackedSlots, why_not_grouped
from offload.experts.interface import tiered_experts
from offload.experts.layout import ExpertLayout, MatrixLayout
from offload.pack import pack
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tiers.copier import as_tensor
from tiers.weight_tier import TensorSpec

FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 32},
    "granitemoe": {"num_local_experts": 8, "num_experts_per_tok": 2},
}
needs_grouped_mm = pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="torch before 2.10")
WORKLOAD = {"prompt_tokens": 40, "new_tokens": 6, "batch": 2}


@needs_grouped_mm
@pytest.mark.parametrize("slack", [None, 1.05, 1.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_plain_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, slack: float | None
) -> None:
    monkeypatch.setattr("offload.experts.store.why_not_grouped", lambda weights: "")
    path = save_model(tmp_path / "model", family, **FAMILIES[family])
    inputs = make_inputs(40, (0, 7))
    expected = generate(plain_model(path), inputs, 6)
    pack(path, tmp_path / "packed")
    least = smallest_budget(tmp_path / "packed", tmp_path / "nvme", **WORKLOAD)
    options = {} if slack is None else {"device_memory": int(least * slack), "nvme_dir": tmp_path / "nvme"}
    with loaded(tmp_path / "packed", **WORKLOAD, **options) as model:
        experts = model.runtime.experts
        assert experts is not None
        assert generate(model, inputs, 6) == expected
        assert experts.stacks(1), "nothing was grouped"
        experts.manager.check()


def test_a_checkpoint_in_place_whose_experts_lie_differently_is_not_stacked(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "mixtral", **FAMILIES["mixtral"], intermediate_size=100)
    with loaded(path, **WORKLOAD) as model:
        experts = model.runtime.experts
        assert experts is not None
        layouts = [layout for key, layout in experts._layouts.items() if key.layer == 1]
        arena = as_tensor(experts.arena.buffer)
        assert StackedSlots.over(arena, experts.pool.num_slots, layouts) is None


@pytest.mark.parametrize(
    ("hidden", "inner", "is_stacked"), [(16, 24, True), (16, 20, False), (20, 16, False), (12, 12, False)]
)
@pytest.mark.parametrize("is_transposed", [False, True])
def test_rows_that_do_not_fill_sixteen_bytes_are_not_stacked(
    hidden: int, inner: int, is_stacked: bool, is_transposed: bool
) -> None:
    """Of bfloat16: eight numbers."""

    def matrix(name: str, offset: int, outputs: int, inputs: int) -> MatrixLayout:
        shape = (inputs, outputs) if is_transposed else (outputs, inputs)
        return MatrixLayout((TensorSpec(name, "BF16", shape, offset),), is_transposed)

    layout = ExpertLayout((matrix("up", 0, 2 * inner, hidden),), None, matrix("down", 2048, hidden, inner), None)
    stack = StackedSlots.over(torch.zeros(3 * 4096, dtype=torch.uint8), 3, [layout, layout])
    assert (stack is not None) == is_stacked


def test_a_wave_lists_rows_in_the_order_of_their_slots() -> None:
    choices = Choices.of(np.array([[3, 1], [1, 0], [3, 9]]))
    assert sorted(choices.rows) == [0, 1, 3, 9]
    rows, slots = choices.wave([(4, 1), (2, 3)])
    assert rows.tolist() == [0, 4, 1, 2]
    assert slots.tolist() == [2, 2, 4, 4]


def test_the_choices_of_one_token() -> None:
    rows, slots = Choices.of(np.array([[7, 2, 5]])).wave([(3, 7), (0, 5), (1, 2)])
    assert rows.tolist() == [2, 1, 0]
    assert slots.tolist() == [0, 1, 3]


@needs_grouped_mm
@pytest.mark.parametrize("slack", [None, 1.05])
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_a_masked_choice_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, slack: float | None
) -> None:
    monkeypatch.setattr("offload.experts.store.why_not_grouped", lambda weights: "")
    pack(save_model(tmp_path / "model", family, **FAMILIES[family]), tmp_path / "packed")
    least = smallest_budget(tmp_path / "packed", tmp_path / "nvme", **WORKLOAD)
    options = {} if slack is None else {"device_memory": int(least * slack), "nvme_dir": tmp_path / "nvme"}
    with loaded(tmp_path / "packed", **WORKLOAD, **options) as model:
        _, module = experts_modules(model)[1]
        module._is_expert_parallel = True
        tokens = torch.randn(3, 64)
        weights = torch.tensor([[0.6, 0.4]] * 3)
        masked = tiered_experts(module, tokens, torch.tensor([[2, 8], [1, 3], [8, 8]]), weights)
        unmasked = torch.tensor([[2, 2], [1, 3], [0, 0]])
        alone = tiered_experts(module, tokens, unmasked, weights * torch.tensor([1.0, 0.0]))
        whole = tiered_experts(module, tokens, unmasked, weights)
    torch.testing.assert_close(masked[0], alone[0])
    torch.testing.assert_close(masked[1], whole[1])
    assert not masked[2].any()


@pytest.mark.parametrize(
    ("is_cuda", "dtype", "why"),
    [
        (False, torch.bfloat16, "a processor is told of a product in no time"),
        (True, torch.float32, "torch groups products of bfloat16 only, and these are of float32"),
        (True, torch.float16, "torch groups products of bfloat16 only, and these are of float16"),
    ],
)
def test_says_why_products_are_not_grouped(is_cuda: bool, dtype: torch.dtype, why: str) -> None:
    weights: Any = SimpleNamespace(is_cuda=is_cuda, dtype=dtype)
    assert why_not_grouped(weights) == why
