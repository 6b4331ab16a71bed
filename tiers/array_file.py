"""Files of named NumPy arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from tiers.errors import InvalidOptionError


def save_arrays(path: Path, **content: Any) -> None:
    """Write a compressed archive (.npz), whole or not at all. Raises InvalidOptionError where it cannot be written."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, **content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InvalidOptionError(f"{path}: cannot be written ({error.strerror}); name another place") from None
