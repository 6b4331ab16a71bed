"""The nodes of Ray clusters that run on this machine: a driver needs one of its cluster, and shares its ways."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node; ``head`` is the HOST:PORT of its cluster, ``auth_mode`` its RAY_AUTH_MODE, empty where not known."""

    process: psutil.Process
    head: str
    auth_mode: str

    @property
    def is_alive(self) -> bool:
        """Whether its process still runs."""
        try:
            return bool(self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE)
        except _GONE:
            return False


def nodes_here() -> list[RayNode]:
    """Those that run."""
    return list(_nodes())


def node_of(address: str, nodes: list[RayNode]) -> RayNode | None:
    """The node of the cluster at ``address``; a head goes by one address, and is asked for by all names of its host.

    So 127.0.0.1 and the name of a machine are any address of this one.
    """
    for node in nodes:
        if node.head == address:
            return node
    hosts = _addresses(_host(address))
    mine = _own_addresses()
    for node in nodes:
        others = _addresses(_host(node.head))
        is_same = bool(hosts & others) or bool(hosts & mine and others & mine)
        if is_same and _port(node.head) == _port(address):
            return node
    return None


def _nodes() -> Iterator[RayNode]:
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if not words or Path(words[0]).name != "raylet":
                continue
            head = next((word.partition("=")[2] for word in words if word.startswith("--gcs-address=")), "")
        except _GONE:
            continue
        if head:
            yield RayNode(process, head, _auth_mode(process))


def _auth_mode(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("RAY_AUTH_MODE", ""))
    except (*_GONE, OSError):
        return ""


def _own_addresses() -> set[str]:
    found = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    return found | {"127.0.0.1", "::1"}


def _addresses(host: str) -> set[str]:
    try:
        return {host, *(str(info[4][0]) for info in socket.getaddrinfo(host, None))}
    except (OSError, UnicodeError):
        return {host}


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _port(address: str) -> str:
    return address.rpartition(":")[2]
