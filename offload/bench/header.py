"""What every benchmark says above its rows: the machine, the command and the seed, so that a number can be repeated."""

import os
import platform
import shlex
import sys
from pathlib import Path

import psutil

from offload.machine import processor_name


def header(*, seed: int | None, directory: Path | None = None) -> dict[str, object]:
    """Keys ``hardware``, ``command`` and ``seed`` (None where nothing is drawn). ``directory`` is on the drive used."""
    hardware: dict[str, object] = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    if directory is not None:
        hardware["drive"] = _drive(directory)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"hardware": hardware, "command": command, "seed": seed}


def _drive(directory: Path) -> str:
    """Device and file system below ``directory``: those of the innermost mount point."""
    path = str(directory.resolve())
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if path == mount.mountpoint or path.startswith(mount.mountpoint.rstrip("/") + "/")
    ]
    innermost = max(mounts, key=lambda mount: len(mount.mountpoint), default=None)
    return "unknown" if innermost is None else f"{innermost.device} ({innermost.fstype})"
