"""The limit of memory that may be locked, as a process that has one sees it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("limit", "nbytes", "said"),
    [
        ("65536", 65537, "ulimit -l allows 65,536: raise it, or lower the budget"),
        ("65536", 65536, "lower the budget"),
    ],
)
def test_says_what_would_help(limit: str, nbytes: int, said: str) -> None:
    """In a process of its own: a limit that was lowered cannot be raised again."""
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_MEMLOCK, ({limit}, {limit}))
from tiers.locked_memory import locked_memory_limit, why_not_locked
assert locked_memory_limit() == {limit}
print(why_not_locked({nbytes}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{said}\n"
