"""Attention of one query to blocks wherever they lie: what attention to their tokens in a row gives."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from offload.attention.paged import NO_KERNEL, AttendPieces, _proven, attend_runs, cut, kernel_for_runs
from offload.attention.partial import PartialAttention, attend_all
from tests.interpreted import needs_interpreter, run_interpreted
from tests.offload.attention.plain_kernel import plain
from tests.offload.zoo import generate, loaded, make_inputs, save_model, smallest_budget
from tests.tiers.devices import needs_cuda
from tiers.proven import Proven

HEADS: list[tuple[int, int, int, int]] = [(4, 2, 16, 16), (3, 3, 40, 24), (20, 1, 64, 64), (8, 2, 128, 128)]
"""Heads, those of keys, and widths of keys and values."""
RUNS = [(5, 6), (20, 290), (300, 301), (310, 400), (640, 700)]
"""One in two pieces, single tokens, and what is no multiple of anything."""


def check(
    kernel: AttendPieces | None, shape: tuple[int, int, int, int], dtype: torch.dtype, close: float, device: str = "cpu"
) -> None:
    """Keys and values lie beside each other for each token, as they do in an arena."""
    heads, kv_heads, dim, value_dim = shape
    generator = torch.Generator().manual_seed(heads)
    rows = torch.randn(710, kv_heads * (dim + value_dim), generator=generator).to(device, dtype)
    keys = rows[:, : kv_heads * dim].unflatten(1, (kv_heads, dim))
    values = rows[:, kv_heads * dim :].unflatten(1, (kv_heads, value_dim))
    query = torch.randn(heads, 1, dim, generator=generator).to(device, dtype)
    proven = Proven(kernel) if kernel else kernel_for_runs(query, keys, values)
    chosen = proven.value
    assert chosen is not None, proven.flaw
    found = attend_runs(chosen, query, keys, values, RUNS, 0.3)
    every = [torch.cat([tokens[a:b] for a, b in RUNS]).float() for tokens in (keys, values)]
    expected = attend_all(query.float(), every[0], every[1], 0.3)
    for one, other in ((found.output, expected.output), (found.logsumexp, expected.logsumexp)):
        assert one.shape == other.shape
        assert (one - other).norm() < close * other.norm(), (shape, dtype)


def check_all() -> None:
    from offload.attention.paged_kernel import attend_pieces

    proven = _proven(torch.device("cpu"), torch.float32, 2, 1, 24, 16)
    assert proven.value is attend_pieces, proven.flaw
    for shape in HEADS[1:3]:
        check(attend_pieces, shape, torch.float32, 1e-5)
    for dtype, close in ((torch.bfloat16, 1e-5), (torch.float16, 1e-5)):  # interpreted, products are in float32
        check(attend_pieces, HEADS[0], dtype, close)


def test_pieces() -> None:
    assert cut([(3, 4), (10, 600)]).tolist() == [[3, 4], [10, 266], [266, 522], [522, 600]]
    assert cut(RUNS).dtype == np.int64
    assert len(cut([(0, 10**6), (2 * 10**6, 3 * 10**6)])) <= 514


@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_the_merge_of_pieces(shape: tuple[int, int, int, int]) -> None:
    check(plain, shape, torch.float32, 1e-5)


def test_none_on_a_processor() -> None:
    tokens = torch.zeros(4, 2, 8)
    assert kernel_for_runs(torch.zeros(2, 1, 8), tokens, tokens) is NO_KERNEL


def test_says_why_the_kernel_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Triton is not installed, and where it compiles something else than what was written."""
    monkeypatch.setitem(sys.modules, "offload.attention.paged_kernel", None)
    shape = torch.device("cpu"), torch.float32, 2, 1, 24, 16
    missing = _proven.__wrapped__(*shape)
    assert missing.value is None
    assert missing.flaw.startswith("its kernel, which Triton compiles, does not run (ModuleNotFoundError: ")
    module = ModuleType("offload.attention.paged_kernel")
    module.attend_pieces = lambda *given: (plain(*given)[0] + 1, plain(*given)[1])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    wrong = _proven.__wrapped__(*shape)
    assert wrong.value is None
    assert wrong.flaw.startswith("its kernel computes something else here (relative error ")


@needs_interpreter
def test_the_kernel_interpreted() -> None:
    run_interpreted(__name__)


def generated(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch, kernel: Any
) -> tuple[list[list[int]], int, list[str]]:
    """Tokens of a model most of whose blocks move, how often blocks were attended to together, and what is told."""
    path = save_model(tmp_path / "model", "llama")
    workload = {"prompt_tokens": 400, "new_tokens": 8, "batch": 2}
    inputs = {name: tensor.to(device) for name, tensor in make_inputs(400, (0, 0)).items()}
    least = smallest_budget(path, tmp_path / "nvme", **workload)
    calls = 0

    def counted(*given: Any) -> PartialAttention:
        nonlocal calls
        calls += 1
        return attend_runs(*given)

    monkeypatch.setattr("offload.attention.interface.attend_runs", counted)
    if kernel is not kernel_for_runs:
        monkeypatch.setattr("offload.attention.interface.kernel_for_runs", kernel)
    options = {"device_memory": int(least * 1.1), "nvme_dir": tmp_path / "nvme", "device": device}
    with loaded(path, **workload, **options) as model:
        tokens = generate(model, inputs, 8)
        return tokens, calls, [note for note in model.runtime.notes if note.startswith("attention")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
def test_tokens_are_those_of_one_run_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    flawed: Proven[AttendPieces] = Proven(None, "there is no compiler")
    expected, calls, notes = generated(tmp_path, device, monkeypatch, lambda *_: flawed)
    assert (calls, notes) == (0, ["attention: a launch for each run of blocks: there is no compiler"])
    kernel = (
        kernel_for_runs if device == "cuda" else lambda query, *_: Proven(plain) if query.shape[1] == 1 else NO_KERNEL
    )
    monkeypatch.undo()
    found, calls, notes = generated(tmp_path, device, monkeypatch, kernel)
    assert found == expected
    assert calls, "no step met several runs at once"
    assert not notes


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)])
@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_the_kernel_on_a_gpu(shape: tuple[int, int, int, int], dtype: torch.dtype, close: float) -> None:
    check(None, shape, dtype, close, "cuda")
