"""A consumer drive by the depth of its queue: random reads of 4 KiB, as a review measured them (KitGuru)."""

from simulators.link_costs import drive_s
from simulators.papers.cell import Cell
from simulators.profile import DriveProfile

TABLE = "Lexar NM790 (review by KitGuru), random reads of 4 KiB"
DRIVE = DriveProfile(latency_s=49.5e-6, read_iops=1.0e6, write_iops=9.0e5)
"""A million reads a second by its data sheet, from memory; the latency is calibrated on a depth of 1."""

_RATE = 7.4e9
_READS = 100_000
_PUBLISHED = {"depth 1": (1, 20.2e3), "depth 4": (4, 87e3), "depth 8": (8, 133e3), "depth 32": (32, 479e3)}
_NOTE = "requests wait for each other's flash dies well before the data sheet's rate, of which the model knows nothing"


def drive_depth_cells() -> list[Cell]:
    """Reads a second."""
    cells = []
    for row, (depth, paper) in _PUBLISHED.items():
        ours = _READS / drive_s(DRIVE, _RATE, _READS * 4096, 4096, depth, is_read=True)
        note = _NOTE if depth > 4 else ""
        cells.append(Cell(TABLE, row, "drive", "reads/s", ours, paper, is_calibrated=depth == 1, note=note))
    return cells
