"""Which format a trace file has, and reading and writing it."""

import difflib
import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from simulators.kv_trace.azure import HEADER, read_azure
from simulators.kv_trace.base import KVTrace, Request
from simulators.kv_trace.lines import Lines
from simulators.kv_trace.lmcache import is_lmcache, read_lmcache
from simulators.kv_trace.mooncake import is_mooncake, mooncake_lines, read_mooncake
from simulators.kv_trace.stored import is_stored, read_stored, stored_lines
from simulators.kv_trace.vllm_events import is_vllm, read_vllm
from tiers.errors import InvalidOptionError, TraceError

SAMPLES = Path(__file__).parents[1] / "samples"
"""Traces that come with the package; in options they go by their names."""
_SAMPLE_SUFFIX = ".jsonl.gz"

WRITERS: MappingProxyType[str, Callable[[int, Iterable[Request]], Iterator[dict[str, Any]]]] = MappingProxyType(
    {"offload": stored_lines, "mooncake": mooncake_lines}
)
_READERS: tuple[tuple[Callable[[dict[str, Any]], bool], Callable[[Lines], KVTrace]], ...] = (
    (is_stored, read_stored),
    (is_mooncake, read_mooncake),
    (is_lmcache, read_lmcache),
    (is_vllm, read_vllm),
)


def open_kv_trace(path: Path) -> KVTrace:
    """A trace in any of the formats, known by its first line; TraceError if it is none of them."""
    path = find_trace(path)
    probe = Lines(path)
    if not path.exists() and path.name == str(path):
        near = difflib.get_close_matches(path.name, sample_names(), 1)
        if near:
            raise TraceError(f"{path}: no such trace; did you mean '{near[0]}'?")
    first = next(iter(probe), None)
    if first is None:
        raise TraceError(f"{path}: is empty; name a trace")
    if first.split(",") == HEADER:
        return read_azure(Lines(path))
    record = probe.parse(first)
    if isinstance(record, list) and len(record) > 1 and isinstance(record[0], int | float):
        record = {"events": record[1]}  # as vLLM writes batches
    for is_one, read in _READERS:
        if isinstance(record, dict) and is_one(record):
            return read(Lines(path))
    return probe.fail(
        "is of no known format; known are those of Mooncake, Azure, vLLM's KV events, LMCache and our own"
    )


def sample_names() -> list[str]:
    """The names that samples go by."""
    return sorted(sample.name.removesuffix(_SAMPLE_SUFFIX) for sample in SAMPLES.glob(f"*{_SAMPLE_SUFFIX}"))


def find_trace(path: Path) -> Path:
    """The file, or the sample of that name."""
    sample = SAMPLES / f"{path}{_SAMPLE_SUFFIX}"
    return sample if not path.exists() and path.name == str(path) and sample.is_file() else path


def write_kv_trace(path: Path, trace: KVTrace, to: str = "offload") -> int:
    """Write a trace, whole or not at all, gzipped where the name ends in .gz; returns the number of requests.

    Raises InvalidOptionError where it cannot be written, TraceError where it cannot be read.
    """
    if to not in WRITERS:
        raise InvalidOptionError(f"{to!r} is no format to write; choose one of {', '.join(WRITERS)}")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0

    def counted() -> Iterator[Request]:
        nonlocal count
        for count, request in enumerate(trace.requests, 1):  # noqa: B007
            yield request

    try:
        # Without a name and a time in the header: the same trace gives the same bytes.
        with draft.open("wb") as raw:
            file = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
            for record in WRITERS[to](trace.block_tokens, counted()):
                file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
            if file is not raw:
                file.close()
        draft.replace(path)
    except OSError as error:
        raise InvalidOptionError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return count
