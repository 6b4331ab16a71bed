"""GPU-direct storage against a bounce buffer: one Gen4 drive and a GH200, large reads (published measurements)."""

from simulators.host_path import HostPaths, Storage
from simulators.link_costs import routes_of
from simulators.machine_costs import HostProfile
from simulators.papers.cell import Cell
from simulators.profile import DriveProfile, HardwareProfile, LinkProfile

TABLE = "GPU-direct storage on one drive (Solidigm P5520, GH200)"
_GIB, _MIB = 2**30, 2**20
_PUBLISHED = {1: ("6.59", "6.64"), 4: ("6.62", "6.63")}
"""By MiB of a request: GiB/s with GPU-direct storage and through a bounce buffer."""
_DRIVE = LinkProfile(7.1e9, 4.2e9, 8e-5)
_CHIP_TO_CHIP = LinkProfile(4.5e11, 4.5e11, 1e-5)
MACHINE = HardwareProfile(
    name="GH200 with a P5520",
    source="data sheets, from memory: 7.1 GB/s reads; 450 GB/s each way between processor and GPU; 500 GB/s of LPDDR5X",
    device="cuda",
    memory_bytes_per_s=4.0e12,
    flops={"bfloat16": 9.89e14},
    links={
        "nvme->device": _DRIVE,
        "device->nvme": _DRIVE,
        "host->device": _CHIP_TO_CHIP,
        "device->host": _CHIP_TO_CHIP,
    },
    drive=DriveProfile(8e-5, 1.0e6, 2.0e5),
    host=HostProfile(5e11, 8e9, 4.0),
)


def direct_storage_cells() -> list[Cell]:
    """GiB/s of reads from the drive into the device."""
    cells = []
    for mib, published in _PUBLISHED.items():
        for storage, system, paper in zip(Storage, ("GPU-direct", "bounce buffer"), published, strict=True):
            paths = HostPaths(MACHINE, storage)
            routes = routes_of(MACHINE, ("device", "nvme"), request_nbytes=mib * _MIB, depth=16, paths=paths)
            ours = 1.0 / routes["nvme->device"].seconds(1, _GIB)
            cells.append(Cell(TABLE, f"reads of {mib} MiB", system, "GiB/s", ours, paper, bar=0.15))
    return cells
