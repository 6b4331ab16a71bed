"""What a sweep of scenarios with computing drives varies, and what tells its cells apart."""

import offload
from offload.simulation.cell import digest
from offload.simulation.drive_scenario import DriveCase

DRIVE_SWEPT = ("hardware", "model", "batch", "drive.compression", "drive.drives", "drive.profile")
"""Keys that may hold a list; ``drive.engine`` always may, as policies elsewhere."""


def fingerprint(case: DriveCase) -> str:
    """Of everything that the row depends on, but the code of this version."""
    return digest(offload.__version__, dict(case.head), repr(case.system), repr(case.host), case.engine_w)
