"""The kernel of attention to many runs fits on every GPU, for the widest heads that it is used for."""

from pathlib import Path

import pytest
import torch

from tests.compiled import check_fits, compile_for, needs_compiler, on_every_gpu

_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@needs_compiler
@on_every_gpu
@pytest.mark.parametrize(
    ("dtype", "dims"),
    [(torch.bfloat16, (256, 256)), (torch.bfloat16, (128, 128)), (torch.float32, (256, 256))],
    ids=str,
)
def test_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: int, dtype: torch.dtype, dims: tuple[int, int]
) -> None:
    """With more query heads for one of keys than a program takes."""
    from offload.attention.paged_kernel import _attend, sizes_for

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = dict.fromkeys(("query", "keys", "values"), f"*{_TYPES[dtype]}")
    types |= {"pieces": "*i64", "outputs": "*fp32", "logsumexps": "*fp32", "scale": "fp32"}
    numbers = (
        "count",
        "heads",
        "dim",
        "value_dim",
        "key_stride",
        "key_head_stride",
        "value_stride",
        "value_head_stride",
    )
    types |= dict.fromkeys(numbers, "i32")
    check_fits(capability, compile_for(capability, _attend, types, sizes_for(dtype, 71, *dims)))


@needs_compiler
@pytest.mark.parametrize(
    ("dim", "value_dim"), [(8, 8), (40, 24), (64, 64), (80, 80), (128, 128), (192, 128), (256, 256)]
)
def test_a_block_is_one_that_products_take(dim: int, value_dim: int) -> None:
    from offload.attention.paged_kernel import sizes_for

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        sizes = sizes_for(dtype, 4, dim, value_dim)
        assert sizes["BLOCK"] in {16, 32, 64}
        assert sizes["WIDTH"] >= max(16, dim)
        assert sizes["VALUE_WIDTH"] >= max(16, value_dim)
        tokens = sizes["BLOCK"] * (sizes["WIDTH"] + sizes["VALUE_WIDTH"]) * dtype.itemsize
        assert tokens <= 32 * 1024
