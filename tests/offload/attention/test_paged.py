"""Attention of one query to blocks wherever they lie: what attention to their tokens in a row gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from offload.attention.paged import AttendPieces, _proven, attend_runs, cut, kernel_for_runs
from offload.attention.partial import PartialAttention, attend_all
from tests.interpreted import needs_interpreter, run_interpreted
from tests.offload.zoo import generate, loaded, make_inputs, save_model, smallest_budget
from tests.tiers.devices import needs_cuda

HEADS: list[tuple[int, int, int, int]] = [(4, 2, 16, 16), (3, 3, 40, 24), (20, 1, 64, 64), (8, 2, 128, 128)]
"""Heads, those of keys, and widths of keys and values."""
RUNS = [(5, 6), (20, 290), (300, 301), (310, 400), (640, 700)]
"""One in two pieces, single tokens, and what is no multiple of anything."""


def plain(query: Tensor, keys: Tensor, values: Tensor, pieces: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """A kernel of plain attention, one piece after the other."""
    parts = [attend_all(query.unsqueeze(1), keys[a:b], values[a:b], scale) for a, b in pieces.tolist()]
    return torch.stack([part.output[:, 0].float() for part in parts]), torch.stack([p.logsumexp[:, 0] for p in parts])


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
    chosen = kernel or kernel_for_runs(query, keys, values)
    assert chosen is not None, "the kernel has not proved to be right"
    found = attend_runs(chosen, query, keys, values, RUNS, 0.3)
    every = [torch.cat([tokens[a:b] for a, b in RUNS]).float() for tokens in (keys, values)]
    expected = attend_all(query.float(), every[0], every[1], 0.3)
    for one, other in ((found.output, expected.output), (found.logsumexp, expected.logsumexp)):
        assert one.shape == other.shape
        assert (one - other).norm() < close * other.norm(), (shape, dtype)


def check_all() -> None:
    from offload.attention.paged_kernel import attend_pieces

    assert _proven(torch.device("cpu"), torch.float32, 2, 1, 24, 16) is not None
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
    assert kernel_for_runs(torch.zeros(2, 1, 8), tokens, tokens) is None


@needs_interpreter
def test_the_kernel_interpreted() -> None:
    run_interpreted(__name__)


def generated(tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch, kernel: Any) -> tuple[list[list[int]], int]:
    """Tokens of a model most of whose blocks move, and how often blocks were attended to together."""
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
        return generate(model, inputs, 8), calls


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
def test_tokens_are_those_of_one_run_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    expected, _ = generated(tmp_path, device, monkeypatch, lambda *_: None)
    kernel = kernel_for_runs if device == "cuda" else lambda query, *_: plain if query.shape[1] == 1 else None
    monkeypatch.undo()
    found, calls = generated(tmp_path, device, monkeypatch, kernel)
    assert found == expected
    assert calls, "no step met several runs at once"


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)])
@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_the_kernel_on_a_gpu(shape: tuple[int, int, int, int], dtype: torch.dtype, close: float) -> None:
    check(None, shape, dtype, close, "cuda")
