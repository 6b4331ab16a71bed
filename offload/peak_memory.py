"""The most memory that this process ever had, as the operating system counts it."""

import resource
import sys
from pathlib import Path


def peak_rss_nbytes() -> int:
    """Bytes of resident memory at their highest.

    Linux tells it in /proc; ``getrusage`` would count the process that started us too, if that was larger.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
