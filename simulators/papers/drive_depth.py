"""Two consumer drives by the depth of their queue: random reads of 4 KiB by CrystalDiskMark 8, as a review has them.

Threads each keep requests under way of their own. One thread stops at 124 and 133 thousand reads a second on two
drives that have little in common, so that what it can ask for bounds the deep rows, and not the drives.
"""

from dataclasses import dataclass

from simulators.link_costs import drive_s
from simulators.papers.cell import Cell
from simulators.profile import DriveProfile

REQUEST_S = 1 / 132_941
"""What a read costs the thread that asks for it. Calibrated on the NM790, 8 requests of one thread."""

_READS = 100_000
_THREAD = "sets what a read costs the thread that asks for it, for both drives"


@dataclass(frozen=True, slots=True)
class _Review:
    """``published`` are the reads a second by threads, and requests of each of them; the first row is one by one.

    The limit is that of the drive's data sheet.
    """

    table: str
    read_iops: float
    bytes_per_s: float
    published: dict[tuple[int, int], str]

    @property
    def drive(self) -> DriveProfile:
        """Its latency is calibrated on the first row; nothing is written."""
        return DriveProfile(1 / float(self.published[1, 1]), self.read_iops, self.read_iops)


NM790 = _Review(
    "Lexar NM790 4 TB (review by KitGuru), random reads of 4 KiB",
    1.0e6,
    7.4e9,
    {(1, 1): "20176", (4, 1): "87037", (1, 8): "132941", (4, 8): "479318"},
)
SN8100 = _Review(
    "WD_BLACK SN8100 2 TB (review by KitGuru), random reads of 4 KiB",
    2.3e6,
    14.9e9,
    {(1, 1): "30178", (4, 1): "112207", (1, 8): "123840", (3, 8): "426606", (4, 8): "510174"},
)


def drive_depth_cells() -> list[Cell]:
    """Reads a second."""
    return [_cell(review, *at) for review in (NM790, SN8100) for at in review.published]


def _cell(review: _Review, threads: int, requests: int) -> Cell:
    depth = threads * requests
    by_drive = _READS / drive_s(review.drive, review.bytes_per_s, _READS * 4096, 4096, depth, is_read=True)
    ours = min(by_drive, threads / REQUEST_S)
    sets_cost = review is NM790 and (threads, requests) == (1, 8)
    note = _THREAD if sets_cost else ""
    row = f"{threads} thread{'s' * (threads > 1)} with {requests} request{'s' * (requests > 1)}"
    published, is_calibrated = review.published[threads, requests], sets_cost or depth == 1
    return Cell(review.table, row, "drive", "reads/s", ours, published, is_calibrated=is_calibrated, note=note)
