"""Every half there is, with and without the compiled loop."""

import numpy as np
import pytest

from tiers.csd.engines import widen as module
from tiers.csd.engines.widen import widen

EVERY_HALF = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(1024, 64)


@pytest.fixture(params=["as installed", "without numba"])
def _compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without numba":
        monkeypatch.setattr(module, "compiled", lambda: None)


@pytest.mark.usefixtures("_compiler")
def test_widens_exactly() -> None:
    found = widen(EVERY_HALF.reshape(64, 16, 64), np.empty((2000, 64), np.float32))
    np.testing.assert_array_equal(found, EVERY_HALF.astype(np.float32))


@pytest.mark.usefixtures("_compiler")
def test_rows_that_are_not_in_one_piece() -> None:
    found = widen(EVERY_HALF[::2], np.empty((2000, 64), np.float32))
    np.testing.assert_array_equal(found, EVERY_HALF[::2].astype(np.float32))


@pytest.mark.usefixtures("_compiler")
def test_pages_of_a_drive_are_not_to_be_written_to() -> None:
    given = EVERY_HALF.reshape(64, 16, 64)
    given.flags.writeable = False
    found = widen(given, np.empty((2000, 64), np.float32))
    np.testing.assert_array_equal(found, EVERY_HALF.astype(np.float32))


def test_float32_is_not_copied() -> None:
    given = np.ones((3, 16, 64), np.float32)
    assert np.shares_memory(widen(given, np.empty((0, 64), np.float32)), given)
