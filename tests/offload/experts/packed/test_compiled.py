"""The kernel for experts in fewer bits fits on every GPU."""

from pathlib import Path

import pytest

from tests.compiled import check_fits, compile_for, needs_compiler, on_every_gpu

_CODES = ("codes", "high")
_APART = ("apart_rows", "apart_columns", "apart_values")
_NUMBERS = (
    "codes_stride", "high_stride", "scales_stride", "apart_stride", "values_stride",
    "num_rows", "num_slots", "outputs", "inputs", "num_apart",
)  # fmt: skip


@needs_compiler
@on_every_gpu
@pytest.mark.parametrize(("bits", "has_apart", "dtype"), [(8, False, "bf16"), (3, True, "fp32")])
def test_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: int, bits: int, has_apart: bool, dtype: str
) -> None:
    """With the rows of a prompt; three bits take the most to put together."""
    import triton.language as tl

    from offload.experts.packed.kernel import _multiply

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    code = "*i8" if bits == 8 else "*u8"
    types = {"tokens": f"*{dtype}", "narrow": "*bf16", "slots": "*i64", "output": f"*{dtype}", "scales": "*bf16"}
    types |= dict.fromkeys((*_CODES, *_APART), code) | dict.fromkeys(_NUMBERS, "i32")
    if has_apart:
        types |= dict(zip(_APART, ("*i32", "*i32", "*bf16"), strict=True))
    apart = tl.bfloat16 if dtype == "bf16" else tl.float32
    constants = {"BITS": bits, "TILE": 64, "BLOCK": 64, "DOT": tl.bfloat16, "STEP": 64, "HAS_APART": has_apart}
    check_fits(capability, compile_for(capability, _multiply, types, constants | {"APART": apart}))
