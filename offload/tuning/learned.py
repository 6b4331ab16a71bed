"""What searches have learned: trials in files of Optuna's journal, read again by the next search.

A file holds studies; a study is one space searched for one goal, and carries what tells how near its model, machine and
workload are to those of another. Lines are JSON and only ever added.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offload.tuning.space import Choice
from tiers.errors import InvalidOptionError, WorldError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import JournalStorage

    from offload.simulation.kinds import Setting

VERSION = 1
SUFFIX = ".jsonl"
_NAME = "offload tune"

Features = Mapping[str, Mapping[str, float]]
"""Of ``model``, ``hardware`` and ``workload``: figures by their names."""


@dataclass(frozen=True, slots=True)
class Known:
    """A setting that some search has tried."""

    choice: Choice
    row: Mapping[str, Any]
    path: Path
    distance: float
    """Of what it was tried on, from 0 (the same) to 3."""


def study_name(identity: str) -> str:
    """The name of the study of that digest; it says who wrote it, and in which version."""
    return f"{_NAME} {VERSION}: {identity}"


def features_of(settings: Sequence["Setting"], workload: Mapping[str, float]) -> Features:
    """Of all the models and machines of a search, averages. ``workload`` is what ``Setting.workload_figures`` gives."""
    return {
        "model": _mean([_numbers(asdict(one.shape)) for one in settings]),
        "hardware": _mean([_numbers(asdict(one.profile)) for one in settings]),
        "workload": workload,
    }


def distance(one: Features, other: Features) -> float:
    """From 0 (the same figures) to 3: of each group the mean of relative differences, 1 for a figure that one lacks."""
    total = 0.0
    for group in ("model", "hardware", "workload"):
        mine, theirs = one.get(group, {}), other.get(group, {})
        names = mine.keys() | theirs.keys()
        total += sum(_difference(mine.get(name), theirs.get(name)) for name in names) / max(1, len(names))
    return total


@contextmanager
def opened(path: Path) -> "Iterator[JournalStorage]":
    """The journal in a file, which is made if need be.

    Raises InvalidOptionError where there is something else, or what another version wrote, WorldError where it fails.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    check_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        _drop_torn_line(path)
        storage = JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise WorldError(
            f"{path}: cannot keep what is learned: {error.strerror or error}; name another --study"
        ) from None
    except (ValueError, KeyError, AttributeError, TypeError, AssertionError) as error:
        raise InvalidOptionError(f"{path}: is a damaged study ({type(error).__name__}); name another file") from None
    yield storage


def check_file(path: Path) -> None:
    """InvalidOptionError unless a study may be kept there: none yet, or one of this version."""
    try:
        with path.open("rb") as file:
            line = file.readline(100_000)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidOptionError(f"{path}: cannot be read: {error.strerror or error}; name another file") from None
    if not line:
        return
    try:
        name = json.loads(line)["study_name"]
        written = int(name.removeprefix(f"{_NAME} ").partition(":")[0]) if name.startswith(f"{_NAME} ") else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        written = None
    if written is None:
        raise InvalidOptionError(f"{path}: is no study of 'offload tune'; name another file")
    if written != VERSION:
        raise InvalidOptionError(
            f"{path}: is a study of version {written}, and this is version {VERSION}; name another file"
        )


def known_settings(own: Path, folder: Path | None, features: Features) -> list[Known]:
    """All trials of the studies in ``own`` and, where given, in the files of ``folder``, the nearest first."""
    others = sorted(folder.glob(f"*{SUFFIX}")) if folder else []
    found: list[Known] = []
    for path in dict.fromkeys((own, *others)):
        try:
            with opened(path) as storage:
                found += _trials(storage, path, features)
        except (InvalidOptionError, WorldError):
            if path == own:
                raise  # that of somebody else is no matter of ours
    return sorted(found, key=lambda known: known.distance)


def finished(study: "Study") -> Iterator[Mapping[str, Any]]:
    """``choice``, ``row`` and ``source`` of the trials of a study that have a row, the first one first."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if {"choice", "row", "source"} <= trial.user_attrs.keys():
            yield trial.user_attrs


def _trials(storage: "JournalStorage", path: Path, features: Features) -> list[Known]:
    import optuna

    found = []
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        theirs = study.user_attrs.get("features", {})
        figures = theirs.get("workload", {})
        # Both kinds count requests; those of routing, and no others, count experts.
        if not figures or ("experts" in features["workload"]) != ("experts" in figures):
            continue  # of another kind of scenario
        far = distance(features, theirs)
        found += [Known(attrs["choice"], attrs["row"], path, far) for attrs in finished(study)]
    return found


def _drop_torn_line(path: Path) -> None:
    """What a process that was killed has left of its last line: it would spoil the next one."""
    from optuna.storages.journal import JournalFileSymlinkLock

    if _is_whole(path):
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        with path.open("r+b") as file:
            if not _is_whole(path):  # by now; another process may have been writing
                file.truncate(file.read().rfind(b"\n") + 1)
    finally:
        lock.release()


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")


def _numbers(value: Mapping[str, Any], head: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _numbers(item, f"{head}{key}.")
        elif type(item) in (int, float):
            found[f"{head}{key}"] = float(item)
    return found


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in figures for name in one)
    return {name: float(np.mean([one[name] for one in figures if name in one])) for name in names}


def _difference(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 1.0
    return min(1.0, abs(one - other) / max(abs(one), abs(other), 1e-300))
