"""Answers as tables: the numbers of the JSON, in the units of people."""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from rich.console import Console, RenderableType

from offload.render import bench_tables, convert_tables, doctor_tables, run_tables


def shown(tables: Sequence[RenderableType], width: int = 120) -> list[list[str]]:
    """The words of each line that holds any."""
    file = StringIO()
    console = Console(file=file, width=width)
    for table in tables:
        console.print(table)
    return [line.split() for line in file.getvalue().splitlines() if line.strip()]


def test_a_benchmark_shows_its_conditions_and_the_columns_that_it_has() -> None:
    rows = [
        {"name": "read [64KiB]", "unit": "GiB/s", "ours": 1.23456, "peer": 1.2, "ratio_to_peer": 1.029},
        {"name": "lookup", "unit": "us", "ours": 2.0, "error": -0.12},
    ]
    data = {"hardware": {"memory_bytes": 2**34}, "command": "offload bench io", "seed": 7, "rows": rows}
    lines = shown(bench_tables(data))
    assert ["memory", "bytes:", "16GiB"] in lines
    assert ["seed:", "7"] in lines
    assert ["benchmark", "unit", "ours", "peer", "to", "peer", "error"] in lines
    assert ["read", "[64KiB]", "GiB/s", "1.235", "1.2", "1.029", "-"] in lines
    assert ["lookup", "us", "2", "-", "-", "-12.0%"] in lines


def test_the_doctor_shows_links_and_says_why_something_is_missing() -> None:
    data: Mapping[str, Any] = {
        "device": "cpu",
        "kvikio": False,
        "kvikio_note": "pip install 'offload-runtime[gpu-cuda12]'",
        "o_direct": True,
        "gflops": {"float32": 374.2},
        "runtime": {"products": {}},
        "kvikio_settings": {"num_threads": 8, "task_nbytes": 2**19, "is_direct": True},
        "links": {"nvme->device": {"read_gib_s": 1.5, "write_gib_s": None, "latency_us": 78.51}},
    }
    lines = shown(doctor_tables(data))
    assert ["nvme->device", "1.50", "GiB/s", "-", "78.5", "us"] in lines
    assert ["kvikio", "no:", "pip", "install", "'offload-runtime[gpu-cuda12]'"] in lines
    assert ["o", "direct", "yes"] in lines
    narrow = shown(doctor_tables({**data, "kvikio_note": "a sentence of many words " * 8}), width=60)
    assert any(line[:1] == ["kvikio"] for line in narrow)
    assert [
        "kvikio",
        "reads",
        "fastest",
        "with",
        "8",
        "threads,",
        "tasks",
        "of",
        "512KiB,",
        "with",
        "O_DIRECT",
    ] in lines
    assert not any(words[0] == "runtime" for words in lines)
    assert ["compute", "in", "float32", "374", "GFLOP/s"] in lines


def test_a_run_shows_memory_against_its_budget_and_each_link() -> None:
    data = {
        "tiers": {"device": {"peak_bytes": 96 * 2**20, "capacity_bytes": 128 * 2**20}},
        "links": {"nvme->device": {"bytes": 3 * 2**30, "busy_s": 2.0}, "host->device": {"bytes": 0, "busy_s": 0.0}},
        "prefill_s": 12.345,
        "decode_tokens_per_s": 3.456,
        "hit_ratio": 0.25,
        "stall_s": 0.5,
        "roofline_s": 1.0,
        "efficiency": 0.91,
        "peak_rss_bytes": 2**29,
    }
    lines = shown(run_tables(data))
    assert ["device", "96MiB", "128MiB", "75%"] in lines
    assert ["nvme->device", "3GiB", "2", "s", "1.5GiB/s"] in lines
    assert ["host->device", "0B", "0", "us", "-"] in lines
    assert ["decode", "3.46", "tokens/s"] in lines
    assert ["efficiency", "91%", "of", "the", "bound"] in lines


def test_a_mixture_is_shown_beside_the_dense_model() -> None:
    data = {
        "perplexity_dense": 10.0,
        "perplexity": 13.0,
        "active_share": 0.5,
        "overlap_next_token": 0.41,
        "load_skew": 1.72,
        "experts": 32,
        "top_k": 8,
        "shared_neurons": 512,
        "expert_neurons": 32,
        "seed": 0,
        "seconds": 90.0,
        "text": "my [text].txt",
    }
    lines = shown(convert_tables(data))
    assert ["perplexity", "13.00", "(1.30", "x", "dense)"] in lines
    assert ["active", "50%", "of", "the", "neurons"] in lines
    assert ["seed", "0,", "1", "min", "30", "s,", "my", "[text].txt"] in lines
