"""A computing drive, what it picks and what software costs: the published numbers, and those that a caller changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from simulators.flash.drive import DriveParameters
from simulators.flash.drive_file import changed, load_drive
from simulators.profile import HardwareProfile
from simulators.published import load_profile
from simulators.serving.link_path import PATHS, LinkPath
from simulators.serving.selection import ClusteredSelection, WholeGroups
from simulators.serving.software import SoftwareCosts
from tiers.errors import InvalidOptionError

_SELECTION = {"r": "channels", "k": "token_share", "mean_run": "mean_run"}
_GROUPS = {"groups": "share"}
_KINDS = (
    {one.name: "software" for one in fields(SoftwareCosts)}
    | dict.fromkeys(_SELECTION, "selection")
    | dict.fromkeys(_GROUPS, "groups")
)
SETTINGS = (*(one.name for one in fields(DriveParameters) if one.name not in ("name", "sources")), *_KINDS, "path")
"""Names that ``csd_setup`` knows."""


@dataclass(frozen=True, slots=True)
class CsdSetup:
    """A drive, what SparF picks, and what software costs."""

    drive: DriveParameters
    profile: HardwareProfile
    selection: ClusteredSelection = field(default_factory=ClusteredSelection)
    groups: WholeGroups = field(default_factory=WholeGroups)
    software: SoftwareCosts = field(default_factory=SoftwareCosts)
    path: LinkPath = PATHS["p2p"]


def csd_setup(
    settings: Mapping[str, object] | None = None,
    *,
    drive: str = "instattention",
    profile: str = "a6000",
    software: SoftwareCosts | None = None,
) -> CsdSetup:
    """The published setup with some numbers changed; InvalidOptionError for a name or a value that cannot be.

    Names are the fields of DriveParameters and SoftwareCosts; ``r``, the channels that SparF picks of each head;
    ``k``, the share of the tokens; ``mean_run``, the length of their runs; ``groups``, the share of whole groups where
    those are picked; ``path``, p2p or host, the way between GPU and drive. Values may be text: ``{"channels": "16"}``.
    """
    settings = dict(settings or {})
    path = settings.pop("path", "p2p")
    if not isinstance(path, str) or path not in PATHS:
        raise InvalidOptionError(f"setting: 'path' is {path!r}; it is one of {', '.join(PATHS)}")
    parts: dict[str, dict[str, Any]] = {"drive": {}, "software": {}, "selection": {}, "groups": {}}
    for name, value in settings.items():
        kind = _KINDS.get(name, "drive")
        parts[kind][name] = value if kind == "drive" else _positive(name, value)
    picked = {_SELECTION[name]: int(value) if name == "r" else value for name, value in parts["selection"].items()}
    return CsdSetup(
        changed(load_drive(drive), parts["drive"], where="setting"),
        load_profile(profile),
        replace(ClusteredSelection(), **picked),
        WholeGroups(**{_GROUPS[name]: value for name, value in parts["groups"].items()}),
        replace(software or SoftwareCosts(), **parts["software"]),
        PATHS[path],
    )


def settings_of(texts: Sequence[str]) -> dict[str, object]:
    """``["channels=16", "k=0.0625"]`` as ``csd_setup`` takes it; InvalidOptionError names one without a value."""
    settings: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise InvalidOptionError(f"setting '{text}' has no value; write for example 'channels=16'")
        settings[name.strip()] = value.strip()
    return settings


def _positive(name: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise InvalidOptionError(f"setting: '{name}' is {value!r}; it has to be a number above 0")
    return number
