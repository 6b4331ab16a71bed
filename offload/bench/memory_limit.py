"""Runs a program in a memory cgroup of its own, page cache included: a machine with that much memory."""

import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INTERPRETER_NBYTES: Final = 448 * 2**20
"""What Python, torch and transformers take of a memory limit."""

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """``group`` is the cgroup's directory; None where this user cannot make one, and nothing is limited."""

    group: Path | None
    is_version_1: bool = False
    note: str = ""
    """Why nothing is limited that was to be, in one line."""

    @classmethod
    @contextmanager
    def of(cls, nbytes: int | None) -> Iterator["MemoryLimit"]:
        """A cgroup that lasts as long as the ``with``; no limit for None. Drops the page cache first, if it may."""
        with suppress(OSError):
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
        is_version_1 = (_ROOT / "memory").is_dir()
        group = (_ROOT / "memory" if is_version_1 else _ROOT) / f"offload-bench-{uuid.uuid4().hex[:8]}"
        if nbytes is None:
            yield cls(None)
            return
        try:
            group.mkdir()
            (group / ("memory.limit_in_bytes" if is_version_1 else "memory.max")).write_text(str(nbytes))
        except OSError as error:
            with suppress(OSError):
                group.rmdir()
            yield cls(None, note=f"no memory cgroup can be made here ({group.parent}: {error.strerror}); run as root")
            return
        try:
            yield cls(group, is_version_1)
        finally:
            with suppress(OSError):
                group.rmdir()

    @property
    def is_enforced(self) -> bool:
        return self.group is not None

    def peak_nbytes(self) -> int | None:
        """The most memory that the group had at a time, page cache included; None where nobody counted."""
        if self.group is None:
            return None
        with suppress(OSError, ValueError):
            return int((self.group / ("memory.max_usage_in_bytes" if self.is_version_1 else "memory.peak")).read_text())
        return None

    def run(self, command: Sequence[str], *, timeout_s: float) -> "subprocess.CompletedProcess[str]":
        """Run a command in the group and wait for it. Raises subprocess.TimeoutExpired."""
        if self.group is not None:
            # The shell moves itself into the group before it becomes the program: no page is counted elsewhere.
            command = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.group / "cgroup.procs"), *command]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
