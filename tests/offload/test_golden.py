"""Tokens are sacred: greedy generation equals plain transformers in float32, whatever the budget."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.offload.zoo import generate, loaded, make_inputs, plain_model, smallest_budget

NEW_TOKENS = 6
PROMPTS = (1, 15, 16, 17, 512, 4000)
BATCHES = (1, 4)

Kind = float | Literal["all resident", "with a host tier", "in two drives", "newest in the host"]
KINDS: tuple[Kind, ...] = (
    "all resident",
    "in two drives",
    "newest in the host",
    1.0,
    1.1,
    1.5,
    2.5,
    "with a host tier",
)
"""A number is so many times the smallest budget there is."""


class Plain:
    """A model without offloading, and the tokens that it has already said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._model = plain_model(path)
        self._said: dict[tuple[int, int], list[list[int]]] = {}

    def inputs(self, prompt: int, batch: int) -> dict[str, Any]:
        """Every row but the first of a batch is padded on the left, each by another length."""
        padding = tuple(min(prompt - 1, row * prompt // 5) for row in range(batch))
        return make_inputs(prompt, padding, vocabulary=int(self._model.config.vocab_size))

    def tokens(self, prompt: int, batch: int) -> list[list[int]]:
        if (prompt, batch) not in self._said:
            self._said[prompt, batch] = generate(self._model, self.inputs(prompt, batch), NEW_TOKENS)
        return self._said[prompt, batch]


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> Plain:
    return Plain(tiny_llama)


@pytest.fixture(scope="module")
def real(smollm2: Path) -> Plain:
    return Plain(smollm2)


def budget_of(path: Path, nvme_dir: Path, workload: dict[str, Any], kind: Kind) -> dict[str, Any]:
    if kind == "all resident":
        return {}
    if kind == "in two drives":
        return {"csd": 2, "nvme_dir": nvme_dir}
    if kind == "newest in the host":
        return {"csd": 1, "nvme_dir": nvme_dir, "write_back": 16}
    least = smallest_budget(path, nvme_dir, **workload)
    if kind == "with a host tier":
        return {"device_memory": int(least * 1.2), "host_memory": "64KiB", "nvme_dir": nvme_dir}
    return {"device_memory": int(least * kind), "nvme_dir": nvme_dir}


def check(plain: Plain, nvme_dir: Path, prompt: int, batch: int, kinds: Iterable[Kind]) -> None:
    workload = {"prompt_tokens": prompt, "new_tokens": NEW_TOKENS, "batch": batch}
    for kind in kinds:
        with loaded(plain.path, **workload, **budget_of(plain.path, nvme_dir, workload, kind)) as model:
            assert generate(model, plain.inputs(prompt, batch), NEW_TOKENS) == plain.tokens(prompt, batch), kind
    assert not nvme_dir.exists()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_tiny_model_at_every_budget(tiny: Plain, tmp_path: Path, prompt: int, batch: int) -> None:
    check(tiny, tmp_path / "nvme", prompt, batch, KINDS if prompt < 4000 else KINDS[:3])


@pytest.mark.parametrize(("prompt", "batch"), [(17, 1), (512, 1), (40, 4)])
def test_real_model_at_a_quarter_of_its_weights(real: Plain, tmp_path: Path, prompt: int, batch: int) -> None:
    """Weights are streamed, and where there are more blocks than one for each row, the KV cache spills to the drive."""
    workload = {"prompt_tokens": prompt, "new_tokens": NEW_TOKENS, "batch": batch}
    budget = max(128 * 2**20, smallest_budget(real.path, tmp_path / "nvme", **workload))
    with loaded(real.path, device_memory=budget, nvme_dir=tmp_path / "nvme", **workload) as model:
        assert model.plan.streamed_nbytes > 0.5 * model.plan.resident_nbytes
        assert bool(model.plan.kv_nvme_blocks) == (prompt > 64)
        assert generate(model, real.inputs(prompt, batch), NEW_TOKENS) == real.tokens(prompt, batch)


# Four times 4,000 tokens take plain transformers longer on one core than a test may take before it counts as a hang.
_REAL = [(1000 if (prompt, batch) == (4000, 4) else prompt, batch) for prompt in PROMPTS for batch in BATCHES]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("prompt", "batch"), _REAL)
def test_real_model_at_every_budget(real: Plain, tmp_path: Path, prompt: int, batch: int, kind: Kind) -> None:
    """But for four times 4,000 tokens, which do not finish within one test's time limit on one core."""
    check(real, tmp_path / "nvme", prompt, batch, [kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", BATCHES)
def test_tiny_model_at_every_budget_with_a_long_prompt(tiny: Plain, tmp_path: Path, batch: int, kind: Kind) -> None:
    check(tiny, tmp_path / "nvme", 4000, batch, [kind])
