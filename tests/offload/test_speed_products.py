"""Products that stand for those of a model."""

import pytest
import torch

from offload.speed.layer_products import LayerProducts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_has_matrices_of_the_sizes_that_were_asked(dtype: torch.dtype) -> None:
    sizes = (4096, 65536, 1000 * dtype.itemsize)
    between = LayerProducts(sizes, dtype)
    assert len(between.layers) >= 2
    for layer in between.layers[:2]:
        assert all(token.dtype is matrix.dtype is dtype for token, matrix in layer)
        assert [matrix.nbytes for _, matrix in layer] == pytest.approx(sizes, rel=0.05)
    between()


def test_without_matrices_nothing_is_done() -> None:
    LayerProducts((), torch.float32)()
