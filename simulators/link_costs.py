"""How long transfers take: latency and bandwidth of a link, and a drive by the depth of its queue and their size."""

from simulators.modelled_mover import Route
from simulators.profile import NEAR_TO_FAR, DriveProfile, HardwareProfile, LinkProfile
from tiers.errors import InvalidOptionError


def drive_s(
    drive: DriveProfile, bytes_per_s: float, nbytes: int, request_nbytes: int, depth: int, *, is_read: bool
) -> float:
    """Seconds to move ``nbytes`` in requests of ``request_nbytes``, ``depth`` of them at a time.

    While ``depth`` are in flight one takes as long as the slowest of: a request alone, as many as the drive ends in a
    second, and as many bytes as it moves in a second. Requests follow each other at that rate.
    """
    if not nbytes:
        return 0.0
    num_requests = -(-nbytes // request_nbytes)
    depth = min(depth, num_requests)
    iops = drive.read_iops if is_read else drive.write_iops
    request_s = max(drive.latency_s, depth / iops, depth * min(request_nbytes, nbytes) / bytes_per_s)
    # The last one ends a latency after the others have made room for it.
    return max(num_requests / depth * request_s, drive.latency_s + nbytes / bytes_per_s)


def link_s(link: LinkProfile, nbytes: int, *, is_read: bool) -> float:
    """Seconds for one transfer that has the link for itself."""
    rate = link.read_bytes_per_s if is_read else link.write_bytes_per_s
    return link.latency_s + nbytes / rate if nbytes else 0.0


def routes_of(
    profile: HardwareProfile, levels: tuple[str, ...], *, request_nbytes: int = 512 * 1024, depth: int = 16
) -> dict[str, Route]:
    """Every way between two of the levels. The directions of a drive share it; other links are full duplex.

    Where the profile has no link between host and drive, that between device and drive counts. Raises
    InvalidOptionError for any other that is missing.
    """
    pairs = [(a, b) for a in levels for b in levels if a != b]
    return {f"{a}->{b}": _route(profile, a, b, request_nbytes, depth) for a, b in pairs}


def _route(profile: HardwareProfile, source: str, target: str, request_nbytes: int, depth: int) -> Route:
    name = f"{source}->{target}"
    link = profile.links.get(name) or _around(profile, source, target)
    is_read = NEAR_TO_FAR.index(source) > NEAR_TO_FAR.index(target)
    if "nvme" not in (source, target):
        return Route(lambda _blocks, nbytes: link_s(link, nbytes, is_read=is_read), name)
    rate = link.read_bytes_per_s if is_read else link.write_bytes_per_s
    drive = profile.drive
    if drive is None:
        return Route(lambda _blocks, nbytes: link_s(link, nbytes, is_read=is_read), "nvme")
    return Route(lambda _blocks, nbytes: drive_s(drive, rate, nbytes, request_nbytes, depth, is_read=is_read), "nvme")


def _around(profile: HardwareProfile, source: str, target: str) -> LinkProfile:
    """Between host and drive as between device and drive: the drive is what is slow."""
    same = {"nvme->host": "nvme->device", "host->nvme": "device->nvme"}.get(f"{source}->{target}")
    if same is None or same not in profile.links:
        raise InvalidOptionError(
            f"the profile '{profile.name}' has no link {source}->{target}; it has {', '.join(profile.links)}"
        )
    return profile.links[same]
