"""What the tests of this folder share: keys, blocks, and programs that run beside us."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from tiers.block import KVBlockKey
from tiers.chunks import Move
from tiers.link import Priority
from tiers.memory_tier import MemoryTier
from tiers.tier import Tier
from tiers.transfer import TransferEngine

BLOCK_NBYTES = 4096
_ROOT = Path(__file__).parents[2]


def key(index: int) -> KVBlockKey:
    """The block of that number."""
    return KVBlockKey(sequence=0, layer=0, block=index)


def content(seed: int, nbytes: int = BLOCK_NBYTES) -> bytes:
    """Bytes that no other seed has."""
    return Random(seed).randbytes(nbytes)


def open_fds() -> set[str]:
    """Our file descriptors and what they are open on."""
    links = set()
    for path in list(Path("/proc/self/fd").iterdir()):
        with suppress(FileNotFoundError):  # the one by which the directory was listed
            links.add(f"{path.name} {path.readlink()}")
    return links


def move_one(engine: TransferEngine, source: Tier, target: Tier, source_slot: int, target_slot: int) -> None:
    """Move one block and wait for it."""
    engine.wait(engine.submit(source, target, [Move(source_slot, target_slot)], Priority.DEMAND))


def fill(engine: TransferEngine, target: Tier, contents: Sequence[bytes]) -> None:
    """Put blocks into the first slots of a tier, by way of the engine."""
    source = MemoryTier("source", len(contents), target.block_nbytes)
    for slot, data in enumerate(contents):
        source.view(slot)[:] = data
        move_one(engine, source, target, slot, slot)


@contextmanager
def running(code: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """Another Python process. It is there to talk to in the block and dead after it."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def mounted(parent: Path, kind: str, options: str) -> Iterator[Path]:
    """For a fixture: a file system of its own below ``parent`` for the time of a test."""
    path = parent / kind
    path.mkdir()
    try:
        subprocess.run(["mount", "-t", kind, "-o", options, kind, path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount file systems")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)
