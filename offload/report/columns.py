"""Numbers in rows that nobody knew of when this page was designed: energy, price, or a column of one's own."""

from collections.abc import Sequence

from offload.report.results import Row

_KNOWN = (
    *("hit_ratio", "device_hit_ratio", "belady_gap", "tokens_per_s", "ttft_s", "ttft_p90_s", "ttft_p99_s"),
    *("batch", "speed", "bytes", "stall_s", "elapsed_s"),
)
_FOR_TABLES = ("prefix_hit_ratio", "tokens_per_s_without_stall", "recomputed", "queue_p90_s")
_NAMED = {
    "energy_j_per_token": ("Energy per token", "joules"),
    "price_per_million_tokens": ("Price of a million tokens", "dollars"),
    "queue_s": ("Time in the queue, median", "seconds"),
    "queue_p99_s": ("Time in the queue, 99th percentile", "seconds"),
}
_UNITS = (("_per_s", "per second"), ("_s", "seconds"), ("_j", "joules"), ("_w", "watts"), ("_bytes", "bytes"))


def other_figures(rows: Sequence[Row]) -> list[str]:
    """Keys of numbers that have no column of their own, in the order in which they come."""
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if type(value) in (int, float))
    return [key for key in keys if key not in _KNOWN]


def figures_to_plot(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Of these, what is worth a plot: the key, its name and its unit as far as the key tells it."""
    keys = [key for key in other_figures(rows) if key not in _FOR_TABLES]
    return [(key, *_named(key)) for key in keys if len({row.get(key) for row in rows}) > 1]


def _named(key: str) -> tuple[str, str]:
    if key in _NAMED:
        return _NAMED[key]
    name = key.replace("_", " ")
    return name[:1].upper() + name[1:], next((unit for end, unit in _UNITS if key.endswith(end)), name)
