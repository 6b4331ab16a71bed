"""Attention inside the drive: what it moves and how long it would take, beside the published figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offload.bench.csd_attend import attend_rows
from offload.bench.csd_frontier import VARIANTS, FrontierSizes, csd_frontier
from offload.bench.csd_paper import bench_csd_paper
from offload.bench.csd_run import RunSizes, run_rows
from offload.bench.header import header
from offload.bench.ticker import Progress
from offload.simulation.drive_setup import csd_setup

_SOME = FrontierSizes(variants=("sparf", "group_mass"), compressions=(4, 8))


def bench_csd(
    model: Path,
    nvme_dir: Path,
    *,
    settings: Mapping[str, object] | None = None,
    drive: str = "instattention",
    is_whole: bool = False,
    sizes: RunSizes | None = None,
    frontier: FrontierSizes | None = None,
    text: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Rows of four kinds: published cells, the engine's speed, runs of ``model`` on an emulated drive, its accuracy.

    ``settings`` change numbers of ``drive`` (see ``csd_setup``). ``is_whole`` measures the accuracy of every engine at
    every compression, which takes half an hour. Accuracy is that on ``text``, by default on the help of Python. Raises
    InvalidOptionError, and as ``offload.load``.
    """
    setup = csd_setup(settings, drive=drive)
    chosen = FrontierSizes(variants=tuple(VARIANTS)) if is_whole else frontier or _SOME
    parts = _Parts(progress, 4)
    rows: list[dict[str, Any]] = [*bench_csd_paper(settings, drive=drive)["rows"], *attend_rows(seed=seed)]
    parts.done()
    rows += run_rows(model, nvme_dir, setup.drive, sizes)
    parts.done()
    found = csd_frontier(model, text=text, sizes=chosen, seed=seed)
    rows += found["rows"]
    parts.done()
    return header(seed=seed, directory=nvme_dir) | {
        "model": str(model.name),
        "drive": setup.drive.name,
        "settings": dict(settings or {}),
        **{key: found[key] for key in ("text", "needles", "needles_found_by_dense")},
        "rows": rows,
    }


class _Parts:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._count = progress, total, 0
        self.done()

    def done(self) -> None:
        self._count += 1
        if self._progress:
            self._progress(self._count, self._total)
