"""The one geometry behind all published numbers."""

import pytest

from simulators.flash.drive import DriveParameters
from simulators.flash.drive_file import load_drive
from simulators.model_costs import read_model_shape
from simulators.published import find_published
from simulators.serving.base import Workload
from simulators.serving.geometry_fit import TABLE_3, FlashRates, fit_geometry, rates_of
from simulators.serving.selection import ClusteredSelection

WORKLOAD = Workload(read_model_shape(find_published("models", "opt-13b")), 64)
FITTED = ("dies_per_channel", "pages_per_program", "read_s", "program_s")


def test_the_drive_that_ships_has_the_published_rates() -> None:
    rates = rates_of(load_drive("instattention"), WORKLOAD, ClusteredSelection())
    assert rates.decode_read == pytest.approx(TABLE_3.decode_read, rel=0.15)
    assert rates.prefill_write == pytest.approx(TABLE_3.prefill_write, rel=0.15)
    assert rates.decode_write == pytest.approx(TABLE_3.decode_write, rel=0.15)
    assert rates.distance(rates) == 0.0
    assert FlashRates(1.0, 2.0, 4.0).distance(FlashRates(1.0, 1.0, 4.0)) == pytest.approx(0.693, abs=0.001)


@pytest.mark.slow
def test_it_is_what_the_search_finds() -> None:
    found = fit_geometry(TABLE_3, DriveParameters(), WORKLOAD, ClusteredSelection())
    ships = load_drive("instattention")
    assert [getattr(found, name) for name in FITTED] == pytest.approx([getattr(ships, name) for name in FITTED])
