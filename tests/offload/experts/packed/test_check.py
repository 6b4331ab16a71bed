"""Experts in fewer bits that a device cannot compute are refused before anything is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from offload.experts.codecs.registry import CODECS
from offload.experts.codecs.tiles import TILES
from offload.experts.packed import products, reference
from offload.experts.packed.check import check_packed
from offload.experts.packed.products import flaw
from offload.experts.packed.stack import PackedStack
from tests.tiers.devices import needs_cuda
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError
from tiers.weight_tier import TensorSpec, WeightGroup

STORE = Path("a store")
CPU = torch.device("cpu")


def group(precision: str, part: str) -> WeightGroup:
    spec = TensorSpec(f"experts.3.down_proj.{precision}.{part}", "U8", (64,), 0)
    return WeightGroup(ExpertKey(0, 3, precision), "expert", (spec,), 64)


@pytest.fixture(autouse=True)
def _forget() -> None:
    flaw.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor in its place."""
    monkeypatch.setattr("offload.experts.packed.check.require_device", lambda name: None)
    monkeypatch.setattr("offload.experts.packed.check.torch_device", lambda name: CPU)


def test_a_processor_takes_everything() -> None:
    check_packed(STORE, [group("int4", "tiles16_all")], "cpu", torch.float32, uses_low_copies=True)


@pytest.mark.usefixtures("gpu")
def test_a_device_whose_kernel_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(stack: PackedStack, tokens: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(products, "products_on", lambda device: broken)
    with pytest.raises(
        InvalidOptionError,
        match=r"--device cuda: a store keeps experts in int8: its kernel, which Triton compiles, does not run "
        r"\(RuntimeError: no compiler\); use --device cpu, or the model as stored",
    ):
        check_packed(STORE, [group("int8", "codes")], "cuda", torch.float32, uses_low_copies=True)


@pytest.mark.usefixtures("gpu")
def test_a_device_whose_kernel_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(stack: PackedStack, tokens: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        product = reference.multiply(stack, tokens, slots)
        product[-1, -1] += 50
        return product

    monkeypatch.setattr(products, "products_on", lambda device: wrong)
    with pytest.raises(InvalidOptionError, match=r"int3-sparse: its kernel computes something else here \(relative"):
        check_packed(STORE, [group("int3-sparse", "tiles32_low")], "cuda", torch.float32, uses_low_copies=True)


@pytest.mark.usefixtures("gpu")
def test_codes_side_by_side_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="packed as 'pairs_default', for a processor without AVX2; use"):
        check_packed(STORE, [group("int4", "pairs_default_all")], "cuda", torch.float32, uses_low_copies=True)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("tiles", TILES)
def test_a_right_one_is_taken(monkeypatch: pytest.MonkeyPatch, tiles: str) -> None:
    monkeypatch.setattr(products, "products_on", lambda device: reference.multiply)
    groups = [group("int2", f"{tiles}_low"), group("int4", f"{tiles}_all"), group("int8", "codes")]
    check_packed(STORE, groups, "cuda", torch.bfloat16, uses_low_copies=True)


@pytest.mark.usefixtures("gpu")
def test_low_copies_count_where_they_are_used() -> None:
    """Nobody computes with the others, so that they need no kernel."""
    copies = [replace(group("int4", "pairs_default_all"), kind="low_expert")]
    check_packed(STORE, copies, "cuda", torch.float32, uses_low_copies=False)
    with pytest.raises(InvalidOptionError, match="packed as 'pairs_default'"):
        check_packed(STORE, copies, "cuda", torch.float32, uses_low_copies=True)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize("precision", CODECS)
def test_the_kernel_proves_itself(precision: str, tiles: str, dtype: torch.dtype) -> None:
    assert flaw(torch.device("cuda:0"), precision, tiles, dtype) is None
