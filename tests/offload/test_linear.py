import pytest
import torch

from offload.linear import linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (1, 1, 64), (2, 64), (2, 3, 64)])
def test_is_linear(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(48, 64, generator=generator).to(dtype)
    found, expected = linear(tokens, weight), torch.nn.functional.linear(tokens, weight)
    assert (found.shape, found.dtype) == (expected.shape, dtype)
    assert torch.allclose(found.float(), expected.float(), rtol=0.02, atol=0.1 if dtype is torch.bfloat16 else 1e-5)
