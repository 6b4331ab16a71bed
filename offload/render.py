"""The answers of the commands as tables. Takes what ``--json`` prints, so that both always say the same."""

from collections.abc import Mapping
from typing import Any, Final

from rich import box
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from offload.sizes import format_size

_PLAN_WORDS: Final = (
    "staging: slots that streamed weights pass through. workspace: activations of a step. The nvme row: weights that "
    "are read where they lie, and KV blocks."
)
_RUN_WORDS: Final = (
    "found in memory: of weights, experts and KV blocks, what was on the device already. bound: what decoding takes at "
    "least, computing or moving the missed bytes at the speed of their link. efficiency: that over the time it took."
)

_ROW_COLUMNS: Final = {
    "ours": "ours",
    "peer": "peer",
    "limit": "limit",
    "paper": "paper",
    "aim": "aim",
    "measured": "measured",
    "ratio_to_peer": "to peer",
    "ratio_to_limit": "to limit",
    "ratio_to_aim": "to aim",
    "error": "error",
    "plan": "plan",
    "drive_then_gib_s": "drive then, GiB/s",
    "link_bytes": "link, bytes",
    "host_bytes_per_token": "host, bytes",
    "pages": "pages",
    "modelled_ms": "modelled, ms",
    "attention_error": "output error",
    "bytes_read": "bytes / dense",
    "kl": "KL",
    "top1": "top 1",
    "needles": "needles",
    "hit_ratio": "hits",
    "belady_gap": "to Belady",
    "prediction_accuracy": "accuracy",
    "missed_bytes_per_token": "bytes",
    "stall_s_per_token": "stall, s",
    "decisions_share": "decisions",
    "prefill_over_reading": "prefill / reading",
}
"""Keys of the rows of a benchmark, and their headings."""


def plan_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """What ``offload plan`` found: one row a tier, then the speed."""
    table = plain_table("tier", "in all", "weights", "staging", "KV cache", "workspace")
    for tier, held in data["placement"].items():
        parts = ("bytes", "weight_bytes", "staging_bytes", "kv_bytes", "workspace_bytes")
        table.add_row(tier, *(_size(held.get(part)) for part in parts))
    speed = (
        f"predicted: {data['predicted_tokens_per_s']:.2f} tokens/s after {format_seconds(data['predicted_prefill_s'])} "
        f"of prefill; bound by {data['bottleneck']}"
    )
    words = Text(_PLAN_WORDS, style="dim")
    basis = [Text(_experts_line(data["experts"]))] if data.get("experts") else []
    if "drives" not in data:
        return [table, Text(speed), *basis, words]
    real, here = data["drives"]["modelled"], data["drives"]["emulated"]
    with_real = (
        f"with real drives ({real['drive']}, modelled): {real['tokens_per_s']:.2f} tokens/s, "
        f"{real['attend_ms']:.2f} ms a layer, where the emulated ones take {here['attend_ms']:.2f}"
    )
    notes = [Text(data["drives"]["note"])] if "note" in data["drives"] else []
    return [table, Text(speed), *basis, Text(with_real), *notes, words]


def _experts_line(expected: Mapping[str, Any]) -> str:
    """What the speed of a mixture of experts stands on."""
    hits, even = expected["hit_ratio"], expected["even_tokens_per_s"]
    if expected["routing"] == "recorded":
        return f"experts: the trace finds {hits:.0%} of those visited on the device"
    return (
        f"experts: assumes that {hits:.0%} of those visited are on the device, as in traces of another mixture on "
        f"text; {even:.2f} tokens/s if all are equally likely; --trace FILE goes by one of this model"
    )


def run_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """What ``offload run`` measured: memory against budget, bytes over each link, time against its bound."""
    memory = plain_table("tier", "peak", "budget", "used")
    for tier, held in data["tiers"].items():
        peak, capacity = held["peak_bytes"], held["capacity_bytes"]
        memory.add_row(tier, _size(peak), _size(capacity), f"{peak / capacity:.0%}" if capacity else "-")
    links = plain_table("link", "bytes", "busy", "rate")
    for link, moved in data["links"].items():
        nbytes, busy_s = moved["bytes"], moved["busy_s"]
        links.add_row(link, _size(nbytes), format_seconds(busy_s), _rate(nbytes, busy_s))
    return [memory, links, _figures(data), Text(_RUN_WORDS, style="dim")]


def occupancy_table(tiers: Mapping[str, tuple[int, int]]) -> Table:
    """How full each tier is: a bar for the bytes in use of those that may be used."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    for tier, (used, capacity) in tiers.items():
        bar = ProgressBar(total=max(1, capacity), completed=used, width=30)
        table.add_row(tier, bar, f"{format_size(used)} of {format_size(capacity)}")
    return table


def doctor_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """What ``offload doctor`` found: one row a link, then the facts."""
    links = plain_table("link", "read", "write", "latency")
    for link, found in data["links"].items():
        rates = (_gib_s(found.get("read_gib_s")), _gib_s(found.get("write_gib_s")))
        latency = found.get("latency_us")
        links.add_row(link, *rates, "-" if latency is None else f"{latency:,.1f} us")
    facts = plain_table("found", "")
    for key, value in data.items():
        if key in ("links", "gflops", "kernels", "runtime", "kvikio_settings") or key.endswith("_note"):
            continue
        note = data.get(f"{key}_note")
        label = "memory, GiB/s" if key == "memory_gib_s" else key.replace("_", " ")
        facts.add_row(label, escape(f"{_fact(value)}: {note}" if note else _fact(value)))
    for dtype, gflops in data.get("gflops", {}).items():
        facts.add_row(f"compute in {dtype}", f"{gflops:,.0f} GFLOP/s")
    for weights, tokens in (data.get("kernels") or {}).items():
        facts.add_row(f"kernel for {weights}", f"fastest up to {tokens} tokens")
    if best := data.get("kvikio_settings"):
        way = f"{best['num_threads']} threads, tasks of {format_size(best['task_nbytes'])}"
        facts.add_row("kvikio reads fastest with", f"{way}, {'with' if best['is_direct'] else 'without'} O_DIRECT")
    # Facts are sentences: they go on in the next line, where a column of figures would push the names out.
    facts.columns[1].justify, facts.columns[1].no_wrap, facts.columns[1].overflow = "left", False, "fold"
    return [links, facts]


def bench_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """Under which conditions a benchmark ran, then its rows: ours beside the peer, the limit and the paper."""
    rows = data["rows"]
    columns = [key for key in _ROW_COLUMNS if any(row.get(key) is not None for row in rows)]
    table = plain_table("benchmark", "unit", *(_ROW_COLUMNS[key] for key in columns))
    for row in rows:
        table.add_row(escape(row["name"]), row["unit"], *(_row_number(key, row.get(key)) for key in columns))
    others = {key: value for key, value in data.items() if key not in ("hardware", "rows") and value != []}
    facts = {**data.get("hardware", {}), **others}
    conditions = (f"{key.replace('_', ' ')}: {_condition(key, value)}" for key, value in facts.items())
    notes = [Text(f"{row['name']}: {row['note']}") for row in rows if row.get("note")]
    return [Text("\n".join(conditions), style="dim"), table, *notes]


def pack_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """What ``offload pack`` wrote."""
    if data.get("was_there"):
        return [Text(f"there already, of the same files: {data['blocks']:,} blocks, {_size(data['bytes'])}")]
    rate = _rate(data["bytes"], data["seconds"])
    return [Text(f"{data['blocks']:,} blocks, {_size(data['bytes'])} in {format_seconds(data['seconds'])} ({rate})")]


def convert_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """The mixture that ``offload convert`` made."""
    table = plain_table("figure", "value")
    ratio = data["perplexity"] / data["perplexity_dense"]
    table.add_row("perplexity, dense", f"{data['perplexity_dense']:.2f}")
    table.add_row("perplexity", f"{data['perplexity']:.2f} ({ratio:.2f} x dense)")
    experts = f"{data['top_k']} of {data['experts']} with {data['expert_neurons']} neurons"
    table.add_row("experts of a layer", f"{experts}, {data['shared_neurons']} neurons always on")
    table.add_row("active", f"{data['active_share']:.0%} of the neurons")
    table.add_row("next token keeps", f"{data['overlap_next_token']:.0%} of the experts")
    table.add_row("busiest expert", f"{data['load_skew']:.1f} x the average")
    return [table, Text(f"seed {data['seed']}, {format_seconds(data['seconds'])}, {data['text']}")]


def format_seconds(seconds: float) -> str:
    """A duration with three digits and a unit that suits it: ``1.23 s``, ``4.56 ms``."""
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _figures(data: Mapping[str, Any]) -> Table:
    table = plain_table("figure", "value")
    table.add_row("prefill", format_seconds(data["prefill_s"]))
    table.add_row("decode", f"{data['decode_tokens_per_s']:.2f} tokens/s")
    table.add_row("found in memory", f"{data['hit_ratio']:.1%} of the bytes used")
    table.add_row("waited for transfers", format_seconds(data["stall_s"]))
    table.add_row("bound (roofline)", format_seconds(data["roofline_s"]))
    table.add_row("efficiency", f"{data['efficiency']:.0%} of the bound")
    if data.get("attention_error") is not None:
        missed = f"{data['attention_error']:.1%} of the output of the drives' part (relative L2)"
        table.add_row("missed by sparse attention", missed)
    if data.get("peak_rss_bytes") is not None:
        table.add_row("peak memory of the process", _size(data["peak_rss_bytes"]))
    return table


def figure(value: float | None) -> str:
    """Three digits; a dash where it is not known."""
    return "-" if value is None else f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


def plain_table(first: str, *others: str) -> Table:
    """A table with its headings; columns after the first are of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # Where the terminal is narrow a long name goes on in the next line: a figure that is cut off says nothing.
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _size(nbytes: int | None) -> str:
    return "-" if nbytes is None else format_size(nbytes)


def _rate(nbytes: int, seconds: float) -> str:
    return f"{format_size(round(nbytes / seconds))}/s" if seconds > 0 else "-"


def _gib_s(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.2f} GiB/s"


def _row_number(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:+.1%}" if key == "error" else f"{value:,.4g}"


def _condition(key: str, value: object) -> str:
    if key.endswith("_bytes") and isinstance(value, int):
        return format_size(value)
    return ", ".join(map(_fact, value)) if isinstance(value, list) else _fact(value)


def _fact(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.4g}"
        case _:
            return str(value)
