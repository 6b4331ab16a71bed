"""The results of a scenario with computing drives as a table. Takes what ``--json`` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from offload.render import plain_table
from offload.sizes import format_size

_LEGEND = (
    "tiers: the cache on device, host and plain drives, moved to the GPU without any loss. TTFT: seconds until the "
    "first token. step: seconds of one of decoding. links: all bytes between GPU, "
    "host and drives; flash: pages that computing drives read inside. Limits of hardware: software costs nothing "
    "unless the scenario says so."
)


def drive_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """A row for each system; of a sweep such a table for each setting, which is named above it."""
    axes = [axis.removeprefix("drive.") for axis in data.get("axes", ())]
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for row in data["rows"]:
        named = (f"{axis} {row[axis]}" for axis in axes if axis != "compression")
        settings.setdefault(", ".join(named), []).append(row)
    shown: list[Table | Text] = []
    for setting, rows in settings.items():
        shown += [Text(setting), _table(rows)] if setting else [_table(rows)]
        shown += [Text(f"{row['policy']}: {row['note']}") for row in rows if row["tokens_per_s"] is None]
    return [*shown, Text(_LEGEND, style="dim")]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("cache", "tokens/s", "TTFT", "step", "links", "flash", "J/token")
    for row in rows:
        if row["tokens_per_s"] is None:
            table.add_row(row["policy"], *["-"] * 6)
            continue
        joules = row["energy_j_per_token"]
        table.add_row(
            row["policy"],
            f"{row['tokens_per_s']:,.1f}",
            f"{row['ttft_s']:,.1f}",
            f"{row['step_s']:,.3g}",
            format_size(row["bytes"]),
            format_size(row["flash_read_bytes"]),
            "-" if joules is None else f"{joules:,.3g}",
        )
    return table
