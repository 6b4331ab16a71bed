"""fio, the reference for what a drive can do, run on the very file that we measure ourselves."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from offload.disk_speed import Pattern, Throughput

ENGINES = ("io_uring", "libaio")

_EXTRA_S = 60
"""Patience with a fio that has more to do than its running time says."""


@dataclass(frozen=True, slots=True)
class FioFailed:
    """Why a run of fio gave no number."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fio:
    """One installed fio. ``direct`` says whether it is to use O_DIRECT, as we do."""

    program: str
    direct: bool
    nbytes: int
    seed: int

    def version(self) -> str:
        """As fio spells it, for example ``fio-3.33``."""
        done = subprocess.run(
            [self.program, "--version"], capture_output=True, text=True, check=False, timeout=_EXTRA_S
        )
        return done.stdout.strip()

    def measure(self, fd: int, pattern: Pattern, engine: str, seconds: float) -> Throughput | FioFailed:
        """Run ``pattern`` within the first ``nbytes`` of the open file ``fd``, which need not have a name any more."""
        command = [self.program, *self._options(fd, pattern, engine, seconds)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + _EXTRA_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return FioFailed(str(error))
        start = done.stdout.find("{")
        if done.returncode != 0 or start < 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            return FioFailed(f"{engine}: {said[0] if said else f'exit status {done.returncode}'}")
        return _throughput(json.loads(done.stdout[start:]), "write" if pattern.is_write else "read")

    def _options(self, fd: int, pattern: Pattern, engine: str, seconds: float) -> list[str]:
        mode = "write" if pattern.is_write else "read"
        return [
            "--name=offload",
            f"--filename=/proc/{os.getpid()}/fd/{fd}",
            "--allow_file_create=0",
            f"--ioengine={engine}",
            f"--direct={int(self.direct)}",
            f"--rw={'rand' if pattern.is_random else ''}{mode}",
            f"--bs={pattern.block_nbytes}",
            f"--iodepth={pattern.depth}",
            f"--size={self.nbytes}",
            f"--end_fsync={int(pattern.is_write and not self.direct)}",
            "--time_based",
            f"--runtime={max(1, round(seconds * 1000))}ms",
            "--norandommap",
            f"--randseed={self.seed}",
            # Fewer clock readings: fio is to be as fast as it can.
            "--gtod_reduce=1",
            "--output-format=json",
        ]


def find_fio(*, direct: bool, nbytes: int, seed: int) -> Fio | None:
    """The fio on the path, if there is one."""
    program = shutil.which("fio")
    return None if program is None else Fio(program, direct, nbytes, seed)


def _throughput(answer: dict[str, Any], mode: str) -> Throughput | FioFailed:
    job = answer["jobs"][0]
    moved = job[mode]
    if job["error"] or not moved["io_bytes"] or not moved["runtime"]:
        return FioFailed(f"error {job['error']}, {moved['io_bytes']} bytes moved")
    busy = (job["usr_cpu"] + job["sys_cpu"]) / 100
    return Throughput(moved["io_bytes"], moved["runtime"] / 1000, busy * job["job_runtime"] / 1000)
