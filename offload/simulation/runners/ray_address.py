"""Addresses of Ray clusters, and whether anybody answers there: Ray itself would wait for minutes and then give up
without a word of what is wrong."""

import os
import re
import socket
import tempfile
from pathlib import Path

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


def reachable(address: str) -> str:
    """What to give to Ray for an address; InvalidOptionError where none is there, after a few seconds at most."""
    if address == LOCAL:
        return LOCAL
    found = _here() if address == AUTO else address
    if not found:
        raise InvalidOptionError("--ray auto: no Ray runs here; start one with 'ray start --head', or say --ray local")
    if not _answers(found):
        raise InvalidOptionError(
            f"--ray {address}: no Ray answers at {found}; name the HOST:PORT that 'ray start --head' printed"
        )
    return found


def _here() -> str:
    """As Ray finds it: by the environment, else by what the last ``ray start`` on this machine left."""
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _answers(address: str) -> bool:
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
