"""Hardware profiles and model configurations that come with the package, by name."""

import difflib
from pathlib import Path

from simulators.profile import HardwareProfile
from simulators.profile_file import read_profile
from tiers.errors import InvalidOptionError

_FOLDER = Path(__file__).parent


def published_names(kind: str) -> list[str]:
    """What there is of ``kind``: ``profiles``, ``models``."""
    return sorted(path.stem for path in (_FOLDER / kind).glob("*.json"))


def find_published(kind: str, name: str) -> Path:
    """The file of that name that comes with the package, else the path; InvalidOptionError if there is neither."""
    own = _FOLDER / kind / f"{name}.json"
    if own.parent == _FOLDER / kind and own.is_file():
        return own
    path = Path(name)
    if path.is_file():
        return path
    names = published_names(kind)
    near = difflib.get_close_matches(name, names, 1, 0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"name a file, or one of {', '.join(names)}"
    raise InvalidOptionError(f"'{name}' is none of the {kind} that ship, and no file; {hint}")


def load_profile(name: str) -> HardwareProfile:
    """A published profile by its name, or one that ``offload doctor`` wrote by its path; raises InvalidOptionError."""
    return read_profile(find_published("profiles", name))
