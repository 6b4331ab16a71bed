"""Products of pages with vectors, with and without the compiled loops."""

import numpy as np
import pytest
from numpy.typing import DTypeLike

from tests.tiers.csd.engines.kit import rows
from tiers.csd.engines import products as module
from tiers.csd.engines.products import add_weighted, put_scores


@pytest.fixture(params=["as installed", "without numba"])
def _compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without numba":
        monkeypatch.setattr(module, "compiled", lambda: None)


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("num_rows", "heads"), [(2500, 3), (1024, 1), (1024, 9), (1, 3), (2501, 4)])
def test_equal_those_of_numpy(dtype: DTypeLike, num_rows: int, heads: int) -> None:
    pages, vectors = rows(num_rows, 64).astype(dtype), rows(heads, 64, seed=1)
    pages.flags.writeable = False  # as those of a drive
    wide = pages.astype(np.float64)
    scores = np.full((heads, num_rows + 2), np.nan, np.float32)
    put_scores(pages, vectors, scores[:, 1:-1])
    assert np.isnan(scores[:, [0, -1]]).all()
    np.testing.assert_allclose(scores[:, 1:-1], vectors @ wide.T, atol=1e-4)
    shares = np.abs(rows(heads, num_rows + 2, seed=2))
    out = np.ones((heads, 64), np.float32)
    add_weighted(pages, shares[:, 1:-1], out)
    np.testing.assert_allclose(out, 1 + shares[:, 1:-1] @ wide, atol=2e-3)


@pytest.mark.usefixtures("_compiler")
def test_a_number_that_is_too_large_stays_infinite() -> None:
    pages = np.zeros((1024, 64), np.float16)
    pages[7, 3] = np.inf
    scores = np.empty((1, 1024), np.float32)
    put_scores(pages, np.ones((1, 64), np.float32), scores)
    assert np.isposinf(scores[0, 7])
    assert not scores[0, :7].any()
