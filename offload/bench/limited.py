"""Runs in a memory cgroup: there a peer that relies on the page cache has to read its files from the drive too."""

import importlib.util
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from offload.bench.child import Ran, run_child
from offload.bench.memory_limit import MemoryLimit
from tiers.errors import WorldError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = dict[str, Any]

_TIMEOUT_S = 900.0


def limited_row(
    name: str,
    module: str,
    ours: "DataclassInstance",
    theirs: "DataclassInstance",
    limit: int,
    drive: Callable[[], float],
) -> Row:
    """Our generation, then accelerate's, by ``module``, each in a cgroup of ``limit`` bytes.

    ``drive`` measures its bytes a second. Without cgroups, or where a run does not get through, the row has no numbers
    but a ``note``. ``limit`` of the row is what the bytes that we missed take the drive.
    """
    row: Row = {"name": name, "unit": "tokens/s", "memory_limit_bytes": limit}
    with MemoryLimit.of(limit) as group:
        if not group.is_enforced:
            return row | {"note": group.note, "memory_limit_bytes": None}
    before = drive()
    try:
        ran = _run("ours", module, ours, limit)
    except (WorldError, subprocess.TimeoutExpired) as error:
        return row | {"note": str(error)}
    rate = (before + drive()) / 2
    row |= {"ours": 1 / ran.answer["step_s"], "prefill_s": ran.answer["prefill_s"], "drive_gib_s": rate / 2**30}
    row |= {"cgroup_peak_bytes": ran.peak_nbytes, "missed_bytes_per_token": ran.answer["nbytes_per_step"]}
    if ran.answer["nbytes_per_step"]:
        row["limit"] = rate / ran.answer["nbytes_per_step"]
        row["ratio_to_limit"] = row["ours"] / row["limit"]
    return row | _peer(module, theirs, limit, ran)


def _peer(module: str, spec: "DataclassInstance", limit: int, ours: Ran) -> Row:
    if importlib.util.find_spec("accelerate") is None:
        return {"note": "accelerate is not installed"}
    try:
        ran = _run("accelerate", module, spec, limit)
    except (WorldError, subprocess.TimeoutExpired) as error:
        return {"note": str(error)}
    return {
        "peer": 1 / ran.answer["step_s"],
        "peer_name": "accelerate, disk offload",
        "ratio_to_peer": ran.answer["step_s"] / ours.answer["step_s"],
        "peer_prefill_s": ran.answer["prefill_s"],
        "peer_cgroup_peak_bytes": ran.peak_nbytes,
        **({"same_tokens": ours.answer["tokens"] == ran.answer["tokens"]} if "tokens" in ran.answer else {}),
    }


def _run(who: str, module: str, spec: "DataclassInstance", limit: int) -> Ran:
    return run_child(who, module, spec, limit, timeout_s=_TIMEOUT_S)
