"""The systems of InstAttention's evaluation, and the numbers of them that a caller may change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from simulators.flash.drive import DriveParameters
from simulators.flash.drive_file import changed, load_drive
from simulators.model_costs import ModelShape, read_model_shape
from simulators.profile import HardwareProfile
from simulators.published import find_published, load_profile
from simulators.serving.base import Host, ServingSystem, ServingTime, Workload
from simulators.serving.flexgen import FlexGen
from simulators.serving.in_storage import InStorage
from simulators.serving.link_path import PATHS, LinkPath
from simulators.serving.recompute import Recompute
from simulators.serving.selection import ClusteredSelection, WholeGroups
from simulators.serving.software import SoftwareCosts
from simulators.serving.zero import ZeroInference
from tiers.errors import BudgetError, InvalidOptionError

BEYOND = "Groups"
"""Attention in storage that selects whole pages; the paper has none."""
SYSTEMS = ("FlexGen", "FlexGen-GDS", "FlexGen-SparQ", "DeepSpeed", "Recompute", "InstA", "SparF")
PROMPTS = {"opt-13b": 1024, "opt-30b": 1024, "llama-2-13b": 2048}
"""Of the models evaluated; as many new tokens follow. OPT-30B runs on two GPUs."""
_GPUS = {"opt-30b": 2}
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


class CsdFigures:
    """What systems take for workloads, each computed once."""

    def __init__(self, setup: CsdSetup) -> None:
        self.setup = setup
        self._times: dict[tuple[str, str, int, int], ServingTime | None] = {}

    def time(self, system: str, batch: int, *, model: str = "opt-13b", drives: int = 1) -> ServingTime | None:
        """None where the system runs out of memory."""
        key = (system, model, batch, drives)
        if key not in self._times:
            try:
                self._times[key] = self.system(system, drives).time(workload_of(model, batch), self._host(model))
            except BudgetError:
                self._times[key] = None
        return self._times[key]

    def rate(self, system: str, batch: int, *, model: str = "opt-13b", drives: int = 1) -> float:
        """Tokens per second; 0 where the system runs out of memory."""
        time = self.time(system, batch, model=model, drives=drives)
        return 0.0 if time is None else time.tokens_per_s

    def kv_share(self, system: str, batch: int, *, drives: int = 1) -> float:
        """Of the decode time, in percent."""
        time = self.time(system, batch, drives=drives)
        return 0.0 if time is None else 100 * time.kv_share

    def system(self, name: str, drives: int) -> ServingSystem:
        """One of SYSTEMS, or BEYOND."""
        drive, costs, path = self.setup.drive, self.setup.software, self.setup.path
        systems: dict[str, ServingSystem] = {
            "FlexGen": FlexGen(costs, drives),
            "FlexGen-GDS": FlexGen(costs, drives, is_direct=True),
            "FlexGen-SparQ": FlexGen(costs, drives, kv_share=costs.sparq_share),
            "DeepSpeed": ZeroInference(costs),
            "Recompute": Recompute(costs),
            "InstA": InStorage(drive, costs, drives, path=path),
            "SparF": InStorage(drive, costs, drives, self.setup.selection, path=path),
            BEYOND: InStorage(drive, costs, drives, self.setup.groups, path=path),
        }
        if name not in systems:
            raise InvalidOptionError(f"there is no system '{name}'; known are {', '.join(systems)}")
        return systems[name]

    def _host(self, model: str) -> Host:
        return Host(self.setup.profile, devices=_GPUS.get(model, 1))


def workload_of(model: str, batch: int) -> Workload:
    """As evaluated: 1024 + 1024 tokens, of Llama-2-13B 2048 + 2048. Other models are taken at 1024 + 1024."""
    prompt = PROMPTS.get(model, 1024)
    return Workload(shape_of(model), batch, prompt, prompt)


def shape_of(model: str) -> ModelShape:
    """Of a model that ships, or of a config.json."""
    return read_model_shape(find_published("models", model))


def _positive(name: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise InvalidOptionError(f"setting: '{name}' is {value!r}; it has to be a number above 0")
    return number
