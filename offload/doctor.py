"""Finds and measures what this machine has: compute, memory, a drive, GPU-direct storage. Takes about ten seconds."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from offload.disk_speed import FILL_NBYTES, Pattern, lay_down, measure, read_latency_s
from offload.gpu_storage import Finding, probe_cupy, probe_gds, probe_kvikio
from offload.machine import ComputeSpeed, find_device, measure_compute
from simulators.profile import DEFAULT, HardwareProfile, LinkProfile, read_profile, write_profile
from tiers.errors import DiskFullError, InvalidOptionError
from tiers.nvme_tier import NVMeTier

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
_SIZES = (64 * _KIB, _MIB)
_MOST_FILE_NBYTES = _GIB
_LEAST_FILE_NBYTES = 16 * _MIB
_STEPS = 8


@dataclass(frozen=True, slots=True)
class DriveSpeed:
    """Bytes per second by transfer size, each way."""

    o_direct: Finding
    read: tuple[tuple[int, float], ...]
    write: tuple[tuple[int, float], ...]
    latency_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What ``examine`` found. ``profile`` is also in the file ``profile_path``."""

    profile: HardwareProfile
    profile_path: Path
    description: str
    nvme_dir: Path | None
    o_direct: Finding
    kvikio: Finding
    cupy: Finding
    gds: Finding

    def as_json(self) -> dict[str, object]:
        """The answer of ``offload doctor --json``."""
        profile = self.profile
        found: dict[str, object] = {"device": profile.device, "device_name": self.description}
        for name in ("gds", "kvikio", "cupy", "o_direct"):
            finding: Finding = getattr(self, name)
            found[name] = finding.is_usable
            found[f"{name}_note"] = finding.note
        return found | {
            "nvme_dir": None if self.nvme_dir is None else str(self.nvme_dir),
            "memory_gib_s": profile.memory_bytes_per_s / _GIB,
            "gflops": {dtype: rate / 1e9 for dtype, rate in profile.flops.items()},
            "links": {
                name: {
                    "read_gib_s": link.read_bytes_per_s / _GIB,
                    "write_gib_s": link.write_bytes_per_s / _GIB,
                    "latency_us": link.latency_s * 1e6,
                }
                for name, link in profile.links.items()
            },
            "profile": str(self.profile_path),
        }


def examine(
    nvme_dir: Path | None, *, progress: Progress | None = None, file_bytes: int | None = None, seconds: float = 0.7
) -> Report:
    """Measure this machine and write its profile, which ``load_profile`` then returns.

    The drive is measured in a file of ``file_bytes`` (as much as is sensible if not given) below ``nvme_dir``, each
    number for ``seconds``; the file has no name and is gone with the process. Without a directory the profile has the
    default's drive. Raises InvalidOptionError (directory not writable), DiskFullError, TierBusyError, TransferError.
    """
    steps = _Steps(progress)
    path = _make_profile_path()
    drive = None if nvme_dir is None else _measure_drive(nvme_dir, file_bytes, seconds, steps)
    steps.done(6)
    compute = measure_compute(find_device(), seconds=seconds / 3)
    kvikio = probe_kvikio()
    profile = _make_profile(compute, drive, nvme_dir)
    write_profile(profile, path)
    steps.done(_STEPS)
    return Report(
        profile=profile,
        profile_path=path,
        description=compute.description,
        nvme_dir=nvme_dir,
        o_direct=drive.o_direct if drive else Finding(False, "not tried: no directory was named"),
        kvikio=kvikio,
        cupy=probe_cupy(),
        gds=probe_gds(kvikio),
    )


def load_profile() -> HardwareProfile:
    """The profile that ``offload doctor`` wrote last, or the default. Raises InvalidOptionError for a damaged file."""
    path = _profile_path()
    return read_profile(path) if path.exists() else DEFAULT


class _Steps:
    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def done(self, steps: int) -> None:
        if self._progress:
            self._progress(steps, _STEPS)


def _measure_drive(directory: Path, file_bytes: int | None, seconds: float, steps: _Steps) -> DriveSpeed:
    wanted = _file_nbytes(directory) if file_bytes is None else file_bytes
    tier = NVMeTier(directory, max(1, wanted // FILL_NBYTES), FILL_NBYTES)
    try:
        nbytes = lay_down(tier, seconds=3 * seconds)
        rates: dict[bool, list[tuple[int, float]]] = {False: [], True: []}
        for step, (is_write, size) in enumerate(product(rates, _SIZES), start=1):
            steps.done(step)
            pattern = Pattern(size, is_write=is_write, is_random=not is_write)
            speed = measure(tier, pattern, nbytes=nbytes, seconds=seconds)
            rates[is_write].append((size, speed.bytes_per_s))
        steps.done(5)
        return DriveSpeed(
            o_direct=Finding(tier.direct, tier.fallback_reason or f"works in {directory}"),
            read=tuple(rates[False]),
            write=tuple(rates[True]),
            latency_s=read_latency_s(tier, nbytes=nbytes, seconds=seconds / 2),
        )
    finally:
        tier.close()


def _file_nbytes(directory: Path) -> int:
    """A quarter of the free space, up to 1 GiB. Raises DiskFullError where even the smallest file is too much."""
    parent = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if free // 4 < _LEAST_FILE_NBYTES:
        raise DiskFullError("nvme", path=directory, wanted_bytes=4 * _LEAST_FILE_NBYTES, available_bytes=free)
    return min(_MOST_FILE_NBYTES, free // 4)


def _make_profile(compute: ComputeSpeed, drive: DriveSpeed | None, nvme_dir: Path | None) -> HardwareProfile:
    links = dict(DEFAULT.links)
    to_host, from_host = compute.to_host_bytes_per_s, compute.from_host_bytes_per_s
    for name in ("host->device", "device->host"):
        links[name] = LinkProfile(from_host, to_host, compute.host_latency_s)
    if drive:
        # On its way to a GPU, what was read crosses the host; the slower part of the way sets the pace.
        read = tuple((size, min(rate, from_host)) for size, rate in drive.read)
        write = tuple((size, min(rate, to_host)) for size, rate in drive.write)
        for name, table in (("nvme->device", read), ("device->nvme", write)):
            links[name] = LinkProfile(read[-1][1], write[-1][1], drive.latency_s, by_size=table)
    where = f"drive below {nvme_dir}" if drive else "drive assumed, not measured"
    return HardwareProfile(
        name=compute.description,
        source=f"measured by 'offload doctor' on this machine, {where}",
        device=compute.device,
        memory_bytes_per_s=compute.memory_bytes_per_s,
        flops=compute.flops,
        links=links,
    )


def _profile_path() -> Path:
    """$XDG_CACHE_HOME/offload-runtime/profile.json; a relative XDG path is to be ignored, says its specification."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "offload-runtime" / "profile.json"


def _make_profile_path() -> Path:
    """Before measuring, so that nobody waits for numbers that cannot be kept."""
    path = _profile_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidOptionError(f"XDG_CACHE_HOME: cannot make {path.parent}: {error.strerror}; name another") from None
    if not os.access(path.parent, os.W_OK):
        raise InvalidOptionError(f"XDG_CACHE_HOME: {path.parent} is not writable; name another directory")
    return path
