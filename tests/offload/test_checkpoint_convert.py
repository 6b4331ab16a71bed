import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offload.checkpoint.base import TensorInfo
from offload.checkpoint.convert import convert, converted, parse_dtype
from tests.offload.checkpoints import TORCH_DTYPES
from tiers.errors import InvalidOptionError

ALL = {**TORCH_DTYPES, "F64": torch.float64}


def as_bytes(tensor: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return tensor.contiguous().view(torch.uint8).numpy().reshape(-1)


@pytest.mark.parametrize("target", TORCH_DTYPES)
@pytest.mark.parametrize("source", ALL)
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
def test_rounds_as_torch_does(source: str, target: str, bits: list[int]) -> None:
    """On any bit pattern: ties, subnormals, infinities, overflow; of NaN only that it stays NaN."""
    values = torch.from_numpy(np.array(bits, np.uint32).view(np.float32)).to(ALL[source])
    expected = values.to(ALL[target])
    found = torch.from_numpy(convert(as_bytes(values), source, target)).view(ALL[target])
    assert torch.equal(torch.isnan(found), torch.isnan(expected))
    assert torch.equal(torch.nan_to_num(found), torch.nan_to_num(expected))


def test_parts_of_a_quantisation_stay() -> None:
    tensors = {name: TensorInfo(name, name, (4,)) for name in ("F32", "BF16", "I32", "U8", "F8_E4M3")}
    assert [info.dtype for info in converted(tensors, "F16").values()] == ["F16", "F16", "I32", "U8", "F8_E4M3"]
    assert converted(tensors, None) == tensors


def test_names() -> None:
    assert (parse_dtype("bfloat16"), parse_dtype(None)) == ("BF16", None)
    with pytest.raises(InvalidOptionError, match="--dtype int4: unknown; choose one of float32"):
        parse_dtype("int4")
