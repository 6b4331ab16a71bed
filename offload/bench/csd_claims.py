"""What InstAttention reports of whole systems, as ratios: its absolute rates are in figures only."""

from collections.abc import Iterator

from offload.bench.csd_figures import CsdFigures
from offload.bench.csd_table import Row

BATCHES = (4, 8, 16, 32, 64, 128, 256)


def ratio_rows(figures: CsdFigures) -> Iterator[Row]:
    """Speed-ups, a drive or several, three models."""
    rate = figures.rate
    best = {system: max(rate(system, batch) for batch in BATCHES) for system in ("FlexGen", "DeepSpeed", "InstA")}
    dense, sparse, flexgen = rate("InstA", 256), rate("SparF", 256), rate("FlexGen", 64)
    two_dense = rate("InstA", 256, drives=2), rate("FlexGen", 32, drives=2)
    two_sparse = rate("SparF", 256, drives=2), rate("FlexGen-SparQ", 32, drives=2)
    swapped = rate("DeepSpeed", 32)
    volumes = "predicted; volumes allow 1 / 0.527 = 1.90, the rest are fewer values to weigh"
    cells: list[tuple[str, float, float, float, str]] = [
        ("InstA / FlexGen, batch 64", rate("InstA", 64), flexgen, 6.85, "calibrated: misses of the page cache"),
        ("FlexGen-GDS / FlexGen, batch 64", rate("FlexGen-GDS", 64), flexgen, 1.0, "the paper says about the same"),
        ("InstA / DeepSpeed, best batch of each", best["InstA"], best["DeepSpeed"], 1.046, "calibrated: the host link"),
        ("DeepSpeed, batch 16 / batch 32", rate("DeepSpeed", 16), swapped, 32.6, "calibrated: swapping"),
        ("SparF / InstA, batch 256", sparse, dense, 2.08, volumes),
        ("SparF, batch 256 / FlexGen, best batch", sparse, best["FlexGen"], 11.1, "calibrated: FlexGen's copies"),
        ("SparF / Recompute, batch 256", sparse, rate("Recompute", 256), 1.713, "calibrated: turns"),
        ("2 drives: InstA, batch 256 / FlexGen, batch 32", *two_dense, 10.5, "predicted"),
        ("2 drives: SparF, batch 256 / FlexGen-SparQ, batch 32", *two_sparse, 3.11, "predicted"),
        (
            "InstA, 20 drives / 1, batch 256",
            rate("InstA", 256, drives=20),
            dense,
            8.99,
            "calibrated with the next: commands",
        ),
        (
            "SparF, 20 drives / 1, batch 256",
            rate("SparF", 256, drives=20),
            sparse,
            7.29,
            "calibrated with the one before",
        ),
    ]
    for name, ours, base, paper, note in cells:
        yield name, "x", ratio(ours, base), paper, note
    yield from _model_rows(figures, "opt-30b", "OPT-30B", 8, (4.09, 9.39), "calibrated: a second GPU's process")
    yield from _model_rows(figures, "llama-2-13b", "Llama-2-13B", 16, (5.68, 12.48), "predicted")
    yield _recompute_row(figures)


def _recompute_row(figures: CsdFigures) -> Row:
    """The text names no base of its 9.26. Beside it stand multiples of FlexGen at its best batch."""
    model = "llama-2-13b"
    recompute = figures.rate("Recompute", 128, model=model)
    other = ratio(figures.rate("SparF", 128, model=model), recompute)
    note = (
        "missed: the text names no base; read as the multiples beside it, of FlexGen at its best batch. As SparF / "
        f"Recompute it would be {other:.2f}, or about 7 with a recomputation at every step, which 1.713 of OPT excludes"
    )
    ours = ratio(recompute, figures.rate("FlexGen", 16, model=model))
    return "Llama-2-13B: Recompute, batch 128 / FlexGen, batch 16", "x", ours, 9.26, note


def share_rows(figures: CsdFigures) -> Iterator[Row]:
    """Keys and values in the decode time of batch 64."""
    apart = "predicted: values are weighed while nothing is read"
    for system, drives, paper in (
        ("FlexGen", 1, 98.9),
        ("InstA", 1, 80.7),
        ("InstA", 2, 76.4),
        ("FlexGen-SparQ", 1, 92.4),
        ("SparF", 1, 82.3),
        ("SparF", 2, 74.0),
    ):
        name = f"KV share of decode, batch 64: {system}, {drives} drive{'s' if drives > 1 else ''}"
        note = "calibrated: what a layer takes besides" if system.startswith("FlexGen") else apart
        yield name, "%", figures.kv_share(system, 64, drives=drives), paper, note


def crossing_rows(figures: CsdFigures) -> Iterator[Row]:
    """Batch sizes at which something ends or is best."""
    rate = figures.rate
    spill = next((b for b in BATCHES if b > 16 and rate("DeepSpeed", b) < rate("DeepSpeed", 16) / 10), 0)
    yield "DeepSpeed: first batch that swaps", "batch", spill, 32, "predicted: a power of two of pinned memory a layer"
    full = next((b for b in BATCHES if not rate("FlexGen", b)), 0)
    yield "FlexGen: first batch out of memory", "batch", full, 128, "predicted: scores of the prefill"
    for model, title, paper in (
        ("opt-13b", "OPT-13B", 32),
        ("opt-30b", "OPT-30B", 8),
        ("llama-2-13b", "Llama-2-13B", 16),
    ):
        rates = {batch: rate("FlexGen", batch, model=model) for batch in BATCHES}
        best = max(rates, key=rates.__getitem__)
        yield f"FlexGen: best batch, {title}", "batch", best, paper, "predicted: the page cache beside the weights"


def _model_rows(
    figures: CsdFigures, model: str, title: str, flexgen_batch: int, papers: tuple[float, float], note: str
) -> Iterator[Row]:
    base = figures.rate("FlexGen", flexgen_batch, model=model)
    for system, paper in zip(("InstA", "SparF"), papers, strict=True):
        ours = ratio(figures.rate(system, 128, model=model), base)
        yield f"{title}: {system}, batch 128 / FlexGen, batch {flexgen_batch}", "x", ours, paper, note


def ratio(a: float, b: float) -> float:
    """0 where a system ran out of memory."""
    return a / b if b else 0.0
