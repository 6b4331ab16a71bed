"""``offload doctor``: finds and measures the tiers and links of this machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from offload.commands import options
from offload.commands.output import Data, answering, progress_bar

if TYPE_CHECKING:
    from rich.console import RenderableType


def doctor(
    *,
    nvme_dir: options.NvmeDir = None,
    as_json: options.Json = False,
) -> None:
    """Measures this machine and writes its hardware profile."""
    directory = options.drive_directory(nvme_dir)
    with answering(as_json) as answer:
        from offload.doctor import examine

        with progress_bar("measuring") as progress:
            report = examine(directory, progress=progress)
        answer.show(report.as_json(), _tables)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import doctor_tables

    return doctor_tables(data)
