"""Addresses of Ray clusters, and whether anybody answers there: Ray itself would wait for minutes and then give up
without a word of what is wrong."""

import os
import re
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offload.simulation.runners.ray_nodes import RayNode, node_of, nodes_here
from tiers.errors import InvalidOptionError

LOCAL = "local"
AUTO = "auto"
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_ANSWER_S = 5.0
# What a client of HTTP/2, which Ray speaks, says first (RFC 9113, section 3.4), with settings that change nothing.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_IS_SETTINGS = 4


def check_ray_address(option: str, given: str) -> None:
    """InvalidOptionError, which names the option, unless ``given`` is ``auto``, ``local`` or HOST:PORT."""
    if given not in (LOCAL, AUTO) and not _HOST_AND_PORT.fullmatch(given):
        message = (
            f"{option}: {given!r} is no address; write auto, local, or HOST:PORT of a cluster with this machine in it"
        )
        raise InvalidOptionError(message)


@dataclass(frozen=True, slots=True)
class Found:
    """What to give to Ray for an address, and the node of that cluster here; None of one that is to be started."""

    address: str
    node: RayNode | None = None


def find_ray(address: str) -> Found:
    """The cluster at an address; InvalidOptionError where none is there, after a few seconds at most."""
    if address == LOCAL:
        return Found(LOCAL)
    nodes = nodes_here()
    wanted = _here(nodes) if address == AUTO else address
    node = node_of(wanted, nodes)
    told = node.head if node else wanted
    if not answers(told):
        raise InvalidOptionError(
            f"--ray {address}: no Ray answers at {told}; name the HOST:PORT that 'ray start --head' printed"
        )
    if node is None:
        raise InvalidOptionError(
            f"--ray {address}: no node of the cluster at {told} runs on this machine; "
            f"start one with 'ray start --address={told}'"
        )
    return Found(told, node)


def _here(nodes: Sequence[RayNode]) -> str:
    """As Ray finds it: by the environment, else what the last ``ray start`` on this machine left, else what runs."""
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    heads = list(dict.fromkeys(node.head for node in nodes))
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    try:
        left = (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        left = ""
    if left and (left in heads or not heads):
        return left
    if len(heads) > 1:
        raise InvalidOptionError(f"--ray auto: {len(heads)} Ray clusters run here; name one of {', '.join(heads)}")
    if not heads:
        raise InvalidOptionError("--ray auto: no Ray runs here; start one with 'ray start --head', or say --ray local")
    return heads[0]


def answers(address: str) -> bool:
    """Whether something that speaks as Ray does listens at HOST:PORT."""
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None:
        return False
    try:
        with socket.create_connection((match[1].strip("[]"), int(match[2])), _ANSWER_S) as connection:
            connection.settimeout(_ANSWER_S)
            connection.sendall(_HELLO)
            head = connection.recv(9, socket.MSG_WAITALL)
    except (OSError, OverflowError, UnicodeError):
        return False
    return len(head) == 9 and head[3] == _IS_SETTINGS
