"""Files of named NumPy arrays: compressed archives (.npz) without pickle that say what kind of content they have."""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiers.errors import InvalidOptionError, UsageError

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ArrayFormat:
    """One kind of file. ``name`` stands in it, in the array ``format``; the others are for messages.

    ``what`` is what it holds, ``cure`` what to do about one that cannot be read, and ``error`` is raised for it.
    """

    name: str
    what: str
    cure: str
    error: type[UsageError]

    def save(self, path: Path, **content: Any) -> None:
        """Write a file, whole or not at all. Raises InvalidOptionError where it cannot be written."""
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("wb") as file:
                np.savez_compressed(file, format=self.name, **content)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise InvalidOptionError(f"{path}: cannot be written ({error.strerror}); name another place") from None

    def load(self, path: Path, read: Callable[[Arrays], T]) -> T:
        """What ``read`` makes of the arrays of a file, ``format`` not among them.

        Raises ``error`` for a file that is missing, damaged, of another format, or of which ``read`` cannot make
        anything: it may raise KeyError, TypeError and ValueError, or ``error`` with a text of its own.
        """
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                found = str(file["format"])
                if found != self.name:
                    raise self.error(f"is of the format '{found}', not {self.name}; {self.cure}")
                return read({name: file[name] for name in file.files if name != "format"})
        except FileNotFoundError:
            raise self.error(f"{path}: no such {self.what}; {self.cure}") from None
        except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, self.error):
                raise self.error(f"{path}: {error}") from None
            raise self.error(f"{path}: is no {self.what}, or a damaged one; {self.cure}") from None
