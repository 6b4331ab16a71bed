"""Finds and measures what this machine has: compute, memory, a drive, GPU-direct storage. Takes a minute and a half."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from offload.device import device_uuid, has_own_memory, is_gpu
from offload.disk_speed import FILL_NBYTES, Pattern, file_nbytes, lay_down, measure, read_latency_s
from offload.gpu_storage import Finding, probe_cuda, probe_cupy, probe_gds, probe_kvikio, probe_pinned
from offload.machine import ComputeSpeed, find_device, measure_compute
from offload.nvml import probe_nvml
from offload.zoo import default_cache, writable_cache
from simulators.profile import DEFAULT, DEFAULT_CUDA, HardwareProfile, LinkProfile
from simulators.profile_file import read_profile, write_profile
from tiers.errors import TransferError
from tiers.gds import find_gds
from tiers.kvikio_settings import KvikioSettings
from tiers.nvme_tier import NVMeTier

if TYPE_CHECKING:
    from offload.speed.runtime import Effort

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
_SIZES = (64 * _KIB, _MIB)
_STEPS = 10
_PROFILE = "profile.json"


@dataclass(frozen=True, slots=True)
class DriveSpeed:
    """Bytes per second by transfer size, each way."""

    o_direct: Finding
    read: tuple[tuple[int, float], ...]
    write: tuple[tuple[int, float], ...]
    latency_s: float
    kvikio: KvikioSettings | None
    """With which it reads fastest into the memory of a GPU; None where it does not."""


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
    cuda: Finding
    nvml: Finding
    pinned: Finding

    def as_json(self) -> dict[str, object]:
        """The answer of ``offload doctor --json``."""
        profile = self.profile
        found: dict[str, object] = {"device": profile.device, "device_name": self.description}
        for name in ("cuda", "gds", "kvikio", "cupy", "nvml", "pinned", "o_direct"):
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
            "kernels": None if profile.kernels is None else dict(profile.kernels),
            "runtime": None if profile.runtime is None else asdict(profile.runtime),
            "kvikio_settings": None if profile.kvikio is None else asdict(profile.kvikio),
            "profile": str(self.profile_path),
        }


def examine(
    nvme_dir: Path | None,
    *,
    progress: Progress | None = None,
    file_bytes: int | None = None,
    seconds: float = 0.7,
    effort: "Effort | None" = None,
) -> Report:
    """Measure this machine and write its profile, which ``load_profile`` then returns.

    The drive is measured in a file of ``file_bytes`` (as much as is sensible if not given) below ``nvme_dir``, each
    number for ``seconds``; the file has no name and is gone with the process. Without a directory the profile has the
    default's drive. ``effort`` is what goes into measuring the runtime itself. Raises InvalidOptionError (directory not
    writable), DiskFullError, TierBusyError, TransferError.
    """
    steps = _Steps(progress)
    # Before measuring, so that nobody waits for numbers that cannot be kept.
    path = writable_cache() / _PROFILE
    drive = None if nvme_dir is None else _measure_drive(nvme_dir, file_bytes, seconds, steps)
    steps.done(6)
    compute = measure_compute(find_device(), seconds=seconds / 3)
    from offload.experts.codecs.kernel_speed import measure_kernels

    kernels = asdict(measure_kernels(seconds / 18)) if compute.device == "cpu" else None
    profile = replace(_make_profile(compute, drive, nvme_dir), kernels=kernels)
    steps.done(8)
    if compute.device == "cpu":
        from offload.speed.runtime import Effort, measure_runtime

        profile = replace(profile, runtime=measure_runtime(profile, nvme_dir, effort or Effort()))
    write_profile(profile, path)
    steps.done(_STEPS)
    return Report(
        profile=profile,
        profile_path=path,
        description=compute.description,
        nvme_dir=nvme_dir,
        o_direct=drive.o_direct if drive else Finding(False, "not tried: no directory was named"),
        kvikio=probe_kvikio(),
        cupy=probe_cupy(),
        gds=probe_gds(),
        cuda=probe_cuda(),
        nvml=probe_nvml(device_uuid(compute.device) if is_gpu(compute.device) else None),
        pinned=probe_pinned(compute.device),
    )


def load_profile(device: str = "cpu") -> HardwareProfile:
    """The profile that ``offload doctor`` wrote last, or the default for this kind of device.

    A profile of another kind of device says nothing but how fast the drive is. Raises InvalidOptionError for a damaged
    file.
    """
    path, assumed = default_cache() / _PROFILE, DEFAULT_CUDA if is_gpu(device) else DEFAULT
    found = read_profile(path) if path.exists() else assumed
    if is_gpu(found.device) == is_gpu(device):
        return found
    drive = {name: link for name, link in found.links.items() if "nvme" in name}
    return replace(assumed, source=f"{assumed.source}; {found.source}", links={**assumed.links, **drive})


class _Steps:
    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def done(self, steps: int) -> None:
        if self._progress:
            self._progress(steps, _STEPS)


def _measure_drive(directory: Path, file_bytes: int | None, seconds: float, steps: _Steps) -> DriveSpeed:
    wanted = file_nbytes(directory) if file_bytes is None else file_bytes
    tier = NVMeTier(directory, max(1, wanted // FILL_NBYTES), FILL_NBYTES)
    try:
        nbytes = lay_down(tier, seconds=3 * seconds)
        steps.done(1)
        read = _rates(tier, nbytes, seconds, is_write=False)
        steps.done(3)
        # Before the writes: a drive goes on with those for a while after it has taken them.
        latency_s = read_latency_s(tier, nbytes=nbytes, seconds=seconds / 2)
        steps.done(4)
        write = _rates(tier, nbytes, seconds, is_write=True)
        o_direct = Finding(tier.direct, tier.fallback_reason or f"works in {directory}")
        return DriveSpeed(o_direct, read, write, latency_s, _measure_kvikio(tier, find_device(), nbytes, seconds / 2))
    finally:
        tier.close()


def _measure_kvikio(tier: NVMeTier, device: str, nbytes: int, seconds: float) -> KvikioSettings | None:
    if not (has_own_memory(device) and find_gds().works):
        return None
    from offload.kvikio_speed import fastest_settings

    try:
        return fastest_settings(tier, device, nbytes=nbytes, seconds=seconds)[0]
    except TransferError:  # then runs that use it say what is wrong with it
        return None


def _rates(tier: NVMeTier, nbytes: int, seconds: float, *, is_write: bool) -> tuple[tuple[int, float], ...]:
    """Random reads or sequential writes, bytes per second by size."""
    patterns = [Pattern(size, is_write=is_write, is_random=not is_write) for size in _SIZES]
    return tuple(
        (pattern.block_nbytes, measure(tier, pattern, nbytes=nbytes, seconds=seconds).bytes_per_s)
        for pattern in patterns
    )


def _make_profile(compute: ComputeSpeed, drive: DriveSpeed | None, nvme_dir: Path | None) -> HardwareProfile:
    links = dict(DEFAULT.links)
    to_host, from_host = compute.to_host_bytes_per_s, compute.from_host_bytes_per_s
    is_unified = is_gpu(compute.device) and not has_own_memory(compute.device)
    for name in ("host->device", "device->host"):
        links[name] = LinkProfile(from_host, to_host, compute.host_latency_s)
    if is_unified:
        links = {name: link for name, link in links.items() if "host" not in name}
    if drive:
        # On its way to a GPU, what was read crosses the host, and the slower part of the way sets the pace. The drive
        # reaches the memory of a processor itself, and of a GPU that has none of its own.
        crosses = has_own_memory(compute.device)
        read = tuple((size, min(rate, from_host) if crosses else rate) for size, rate in drive.read)
        write = tuple((size, min(rate, to_host) if crosses else rate) for size, rate in drive.write)
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
        unified_memory=is_unified,
        kvikio=drive.kvikio if drive else None,
        gds=find_gds().is_real if has_own_memory(compute.device) else None,
    )
