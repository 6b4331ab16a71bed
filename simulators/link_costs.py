"""How long transfers take: latency and bandwidth of a link, and a drive by the depth of its queue and their size."""

from simulators.host_path import HOST_MEMORY, HostPaths, HostWork
from simulators.modelled_mover import Route
from simulators.modelled_queue import DRIVEN
from simulators.profile import NEAR_TO_FAR, DriveProfile, HardwareProfile, LinkProfile
from tiers.errors import InvalidOptionError


def drive_s(
    drive: DriveProfile, bytes_per_s: float, nbytes: int, request_nbytes: int, depth: int, *, is_read: bool
) -> float:
    """Seconds to move ``nbytes`` in requests of ``request_nbytes``, ``depth`` of them at a time.

    A request takes as long as it does alone, and waits for those of the others that want the same part of the drive:
    its dies are a closed network of queues, of which the IOPS are the limit, and the pace is what balanced job bounds
    (Zahorjan, Sevcik, Eager and Galler, CACM 25(2), 1982) guarantee with ``depth`` jobs. Of all dies together no more
    bytes come in a second than the drive moves. Requests follow each other at that rate; the last one may be short.
    """
    if not nbytes:
        return 0.0
    num_requests = -(-nbytes // request_nbytes)
    depth = min(depth, num_requests)
    iops = drive.read_iops if is_read else drive.write_iops
    requests_s = num_requests / depth * (drive.latency_s + (depth - 1) / iops)
    # The last one ends a latency after the others have made room for it.
    return max(requests_s, drive.latency_s + nbytes / bytes_per_s)


def link_s(link: LinkProfile, nbytes: int, *, is_read: bool, request_nbytes: int | None = None) -> float:
    """Seconds for one transfer that has the link for itself; in one request where there is no size of them."""
    if not nbytes:
        return 0.0
    return link.latency_s + nbytes / link.bytes_per_s(min(nbytes, request_nbytes or nbytes), is_read=is_read)


def staged_s(link: LinkProfile, nbytes: int, copy_bytes_per_s: float, staging_nbytes: float, *, is_read: bool) -> float:
    """The same for pageable memory: each piece is copied into a staging buffer and moved from there, in turns."""
    if not nbytes:
        return 0.0
    num_pieces = -(-nbytes // staging_nbytes)
    return link_s(link, nbytes, is_read=is_read) + (num_pieces - 1) * link.latency_s + nbytes / copy_bytes_per_s


def routes_of(
    profile: HardwareProfile,
    levels: tuple[str, ...],
    *,
    request_nbytes: int = DRIVEN.chunk_nbytes,
    depth: int = DRIVEN.queue_depth,
    paths: HostPaths | None = None,
) -> dict[str, Route]:
    """Every way between two of the levels. The directions of a drive share it; other links are full duplex.

    Each takes as long as the slowest thing on it, and loads what it shares with others. Where the profile has no link
    between host and drive, that between device and drive counts. Raises InvalidOptionError for any other that is
    missing, or a number of the host that ``paths`` needs.
    """
    paths = paths or HostPaths(profile)
    pairs = [(a, b) for a in levels for b in levels if a != b]
    return {f"{a}->{b}": _route(paths, a, b, request_nbytes, depth) for a, b in pairs}


def capacities_of(profile: HardwareProfile) -> dict[str, float]:
    """Bytes a second of all that links share."""
    capacities = {name: one.bytes_per_s for name, one in profile.shared.items()}
    if profile.unified_memory:
        capacities[HOST_MEMORY] = profile.memory_bytes_per_s * profile.memory_share
    elif profile.host is not None:
        capacities[HOST_MEMORY] = profile.host.memory_bytes_per_s
    return capacities


def loads_of_decoding(profile: HardwareProfile) -> dict[str, float]:
    """Bytes a second that generating tokens takes of what links share: of a unified memory all that it can get.

    Prompts take more arithmetic than bytes, and nothing of what others need.
    """
    return {HOST_MEMORY: capacities_of(profile)[HOST_MEMORY]} if profile.unified_memory else {}


def _route(paths: HostPaths, source: str, target: str, request_nbytes: int, depth: int) -> Route:
    profile, name = paths.profile, f"{source}->{target}"
    link = profile.links.get(name) or _around(profile, source, target)
    is_read = NEAR_TO_FAR.index(source) > NEAR_TO_FAR.index(target)
    work = paths.work(name)
    loads = _loads(profile, name, work)
    capacities = capacities_of(profile)
    most = min([work.most_bytes_per_s, *(capacities[one] / load for one, load in loads.items())])
    if "nvme" not in (source, target):
        staging = profile.host.staging_nbytes if profile.host else 1.0

        def over_link(_blocks: int, nbytes: int) -> float:
            if work.staged_bytes_per_s is None:
                return max(link_s(link, nbytes, is_read=is_read), nbytes / most)
            copied = staged_s(link, nbytes, work.staged_bytes_per_s, staging, is_read=is_read)
            return max(copied, nbytes / most)

        return Route(over_link, name, loads, lambda _blocks, nbytes: work.cpu_s(nbytes, 0))
    rate = min(link.bytes_per_s(request_nbytes, is_read=is_read), most)
    drive = profile.drive

    def to_drive(_blocks: int, nbytes: int) -> float:
        if drive is None:
            return max(link_s(link, nbytes, is_read=is_read, request_nbytes=request_nbytes), nbytes / most)
        return drive_s(drive, rate, nbytes, request_nbytes, depth, is_read=is_read)

    return Route(to_drive, "nvme", loads, lambda _blocks, nbytes: work.cpu_s(nbytes, -(-nbytes // request_nbytes)))


def _loads(profile: HardwareProfile, name: str, work: HostWork) -> dict[str, float]:
    """Bytes on each shared thing for each byte that the link moves."""
    loads = {shared: one.links.get(name, 0.0) for shared, one in profile.shared.items()}
    if profile.host is not None or profile.unified_memory:
        loads[HOST_MEMORY] = work.memory_share
    return {shared: load for shared, load in loads.items() if load}


def _around(profile: HardwareProfile, source: str, target: str) -> LinkProfile:
    """Between host and drive as between device and drive: the drive is what is slow."""
    same = {"nvme->host": "nvme->device", "host->nvme": "device->nvme"}.get(f"{source}->{target}")
    if same is None or same not in profile.links:
        raise InvalidOptionError(
            f"the profile '{profile.name}' has no link {source}->{target}; it has {', '.join(profile.links)}"
        )
    return profile.links[same]
