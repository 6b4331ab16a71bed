"""Experts in fewer bits in one product for all that are there: the logits of one product each, whatever the budget.

On a processor the product is that of plain torch, on a GPU the kernel's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offload.device import MemoryKind
from offload.experts.packed import reference
from offload.offloaded_model import OffloadedModel
from offload.pack import pack
from tests.offload.experts.test_quantise import trace
from tests.offload.zoo import generate, loaded, make_inputs, save_model, smallest_budget
from tests.tiers.devices import needs_cuda

FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 6, "num_experts_per_tok": 6},
    "gpt_oss": {"num_local_experts": 6, "num_experts_per_tok": 6, "head_dim": 16, "sliding_window": 32},
}
"""All experts for every token: a router that chose otherwise would make a difference of another kind."""

PROMPT, NEW = 40, 6
WORKLOAD: dict[str, Any] = {"prompt_tokens": PROMPT, "new_tokens": NEW, "batch": 2}
COLD = trace([[9, 8, 7, 6, 2, 1]] * 4)
"""Experts 4 and 5 of every layer are seldom chosen."""

CLOSE = 0.02
"""Largest difference of logits, relative to their size: the processor's kernels round products to bfloat16."""


@contextmanager
def grouped(path: Path, **options: Any) -> Iterator[OffloadedModel]:
    """Loaded on a device of its own memory where nobody multiplies by one expert alone."""
    with pytest.MonkeyPatch.context() as patch:
        if options.get("device", "cpu") == "cpu":
            for module in ("offload.arenas", "offload.budgets"):
                patch.setattr(f"{module}.memory_kind", lambda name: MemoryKind.OWN)
            patch.setattr("offload.experts.store.products_on", lambda device: reference.multiply)
            patch.setattr("offload.experts.store.why_not_grouped", lambda weights: "")
            patch.setattr("offload.experts.interface._one_by_one", None)
        with loaded(path, **WORKLOAD, **options) as model:
            yield model


def packed_model(tmp_path: Path, family: str, experts: str, dtype: torch.dtype = torch.float32) -> Path:
    path = save_model(tmp_path / "model", family, dtype=dtype, **FAMILIES[family])
    pack(path, tmp_path / "packed", experts=experts, trace=COLD if experts == "int2-cold" else None)
    return tmp_path / "packed"


def forced(model: OffloadedModel, ids: Tensor) -> Tensor:
    """The logits after each of the last tokens of ``ids``, a prompt and what was generated: [rows, NEW, vocabulary]."""
    with torch.inference_mode():
        cache = model.new_cache()
        ids = ids.to(model.device)
        pieces = (ids[:, :PROMPT], *ids[:, PROMPT:-1].split(1, dim=1))
        found = [model(input_ids=piece, past_key_values=cache).logits[:, -1:] for piece in pieces]
        cache.close()
    return torch.cat(found, 1).float().cpu()


def compare(packed: Path, tmp_path: Path, expected_options: dict[str, Any], **options: Any) -> None:
    """With the run of the processor's own kernels: logits, and tokens unless two of them are nearly as good."""
    inputs = make_inputs(PROMPT, (0, 0))
    with loaded(packed, **WORKLOAD, nvme_dir=tmp_path / "nvme", **expected_options) as model:
        ids = torch.cat((inputs["input_ids"], torch.tensor(generate(model, inputs, NEW))), 1)
        expected = forced(model, ids)
    with grouped(packed, nvme_dir=tmp_path / "nvme", **expected_options, **options) as model:
        found = forced(model, ids)
        experts = model.runtime.experts
        assert experts is not None
        assert experts.stacks(1), "nothing was grouped"
        experts.manager.check()
    assert (found - expected).norm() < CLOSE * expected.norm()
    best, second = expected.topk(2).values.unbind(-1)
    is_clear = best - second > 2 * CLOSE * expected.std()
    assert is_clear.float().mean() > 0.5
    assert (found.argmax(-1) == expected.argmax(-1))[is_clear].all()


@pytest.mark.parametrize(
    ("family", "experts", "slack"),
    [
        ("mixtral", "int8", None),
        ("mixtral", "int4", 1.05),
        ("mixtral", "int2-cold", None),
        ("mixtral", "int2-cold", 1.05),
        ("gpt_oss", "int4", None),
        ("gpt_oss", "int3-sparse", 1.05),
    ],
)
def test_as_with_the_processors_kernels(tmp_path: Path, family: str, experts: str, slack: float | None) -> None:
    packed = packed_model(tmp_path, family, experts)
    least = smallest_budget(packed, tmp_path / "nvme", **WORKLOAD)
    compare(packed, tmp_path, {} if slack is None else {"device_memory": int(least * slack)})


@pytest.mark.parametrize("choice", ["int8+int2", "stored+int4"])
def test_low_copies(tmp_path: Path, choice: str) -> None:
    """Some tokens meet an expert, others its low copy, in one visit; all are low, so that it is always the same."""
    packed = packed_model(tmp_path, "mixtral", choice)
    least = smallest_budget(packed, tmp_path / "nvme", **WORKLOAD)
    compare(packed, tmp_path, {"device_memory": int(least * 1.3), "miss_precision": "low"})


def test_rows_of_experts_that_were_masked_are_zero(tmp_path: Path) -> None:
    from offload.experts.bind import experts_modules
    from offload.experts.interface import tiered_experts

    with grouped(packed_model(tmp_path, "mixtral", "int4")) as model:
        _, module = experts_modules(model)[1]
        module._is_expert_parallel = True
        tokens, weights = torch.randn(2, 64), torch.ones(2, 2)
        masked = tiered_experts(module, tokens, torch.tensor([[2, 6], [6, 6]]), weights)
        alone = tiered_experts(module, tokens, torch.tensor([[2, 3], [0, 1]]), weights * torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(masked[0], alone[0])
    assert not masked[1].any()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("slack", [None, 1.1])
@pytest.mark.parametrize("experts", ["int8", "int4", "int4-sparse", "int3-sparse", "int2-cold", "int8+int2"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_gpu_as_on_the_processor(
    tmp_path: Path, dtype: torch.dtype, family: str, experts: str, slack: float | None
) -> None:
    packed = packed_model(tmp_path, family, experts, dtype)
    least = smallest_budget(packed, tmp_path / "nvme", **WORKLOAD)
    compare(packed, tmp_path, {} if slack is None else {"device_memory": int(least * slack)}, device="cuda")
