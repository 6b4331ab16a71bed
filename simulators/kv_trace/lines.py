"""The lines of a trace file, and what to say of one that is wrong."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Never, TypeVar

from tiers.errors import TraceError

_GZIP = b"\x1f\x8b"
_LONGEST_EXCERPT = 60
_MOST = 2**53
"""Numbers above are no lengths, and are not exact in seconds and bytes."""
_MOST_ID = 2**63 - 1

_Id = TypeVar("_Id")


class Lines:
    """The lines of a text file, plain or gzipped, one after the other; ``number`` is that of the last one, from 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        """Every line but empty ones, without its end. Raises TraceError."""
        try:
            with _open(self.path) as file:
                for self.number, line in enumerate(file, 1):
                    text = line.decode("utf-8").strip()
                    if text:
                        yield text
        except UnicodeDecodeError:
            self.fail("is neither text in UTF-8 nor a trace of experts; name a trace")
        except FileNotFoundError:
            raise TraceError(f"{self.path}: no such trace") from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise TraceError(f"{self.path}: is cut off or damaged after line {self.number}; copy it again") from None
        except OSError as error:
            raise TraceError(f"{self.path}: {error.strerror or error}; name a trace that can be read") from None

    def fail(self, what: str) -> Never:
        """Raise TraceError that names the file and the line."""
        raise TraceError(f"{self.path}:{self.number}: {what}")

    def parse(self, text: str) -> Any:
        """The JSON value of a line."""
        try:
            return json.loads(text)
        except ValueError as error:
            excerpt = text if len(text) <= _LONGEST_EXCERPT else f"{text[:_LONGEST_EXCERPT]}..."
            self.fail(f"is no JSON ({error}): {excerpt}")
        except RecursionError:
            self.fail("is JSON within JSON, too deep to be a record of a trace")

    def parse_object(self, text: str) -> dict[str, Any]:
        """The JSON object of a line."""
        value = self.parse(text)
        if not isinstance(value, dict):
            self.fail("is no JSON object; write one {...} a line")
        return value

    def count(self, record: Mapping[str, Any], key: str, *, least: int = 0) -> int:
        """A whole number from ``least`` up."""
        value = self._get(record, key)
        if type(value) is not int or not least <= value <= _MOST:
            self.fail(f"'{key}' is {_short(value)}; it must be a whole number from {least} up, at most {_MOST:,}")
        return value

    def number_of(self, record: Mapping[str, Any], key: str) -> float:
        """A finite number from 0 up."""
        value = self._get(record, key)
        if type(value) not in (int, float) or not 0 <= value <= _MOST:
            self.fail(f"'{key}' is {_short(value)}; it must be a number from 0 up, at most {_MOST:,}")
        return float(value)

    def ids(self, record: Mapping[str, Any], key: str) -> list[int]:
        """A list of whole numbers, each once."""
        value = self._get(record, key)
        if not isinstance(value, list) or not set(map(type, value)) <= {int}:
            self.fail(f"'{key}' is no list of whole numbers")
        if value and (max(value) > _MOST_ID or min(value) < -_MOST_ID):
            self.fail(f"'{key}' has a number of more than 64 bits; number blocks in the order in which they appear")
        return self._each_once(value, key)

    def hashes(self, record: Mapping[str, Any], key: str) -> list[str | int]:
        """A list of hashes, each once."""
        value = record.get(key)
        if not isinstance(value, list) or not all(isinstance(name, str | int) for name in value):
            self.fail(f"'{key}' is no list of hashes")
        return self._each_once(value, key)

    def _each_once(self, ids: list[_Id], key: str) -> list[_Id]:
        """Blocks with the same id have the same tokens before them: no prompt has two of them."""
        if len(set(ids)) < len(ids):
            twice = next(name for i, name in enumerate(ids) if name in ids[:i])
            self.fail(f"'{key}' has {twice!r} twice; give each block of a prompt an id of its own")
        return ids

    def _get(self, record: Mapping[str, Any], key: str) -> Any:
        if key not in record:
            self.fail(f"'{key}' is missing; the line has {', '.join(map(repr, record)) or 'nothing'}")
        return record[key]


class Clock:
    """Turns the times of a trace into seconds since its first request."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._first: float | None = None
        self._last = 0.0

    def since_start(self, time_s: float) -> float:
        """Raises TraceError where time goes backwards."""
        if self._first is None:
            self._first = time_s
        elapsed = time_s - self._first
        if elapsed < self._last:
            self._lines.fail(f"came {self._last - elapsed:g} s before the line above; sort the trace by time")
        self._last = elapsed
        return elapsed


def _short(value: object) -> str:
    told = repr(value)
    return told if len(told) <= _LONGEST_EXCERPT else f"{told[:_LONGEST_EXCERPT]}..."


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_gzip = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path) if is_gzip else path.open("rb")  # type: ignore[return-value]  # it reads bytes all the same
