"""A file that is written whole or not at all: under another name first, then renamed."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from tiers.errors import InvalidOptionError, WorldError

_NO_FAULT_OF_THE_NAME = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def write_whole(path: Path, text: str) -> None:
    """Replaces ``path`` by a file with that text, in UTF-8.

    Raises InvalidOptionError where the file cannot be written there, WorldError where the drive is full or fails. Then
    what was there before still is.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        message = f"{path}: cannot be written: {error.strerror or error}"
        if error.errno in _NO_FAULT_OF_THE_NAME:
            raise WorldError(message) from None
        raise InvalidOptionError(message) from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
