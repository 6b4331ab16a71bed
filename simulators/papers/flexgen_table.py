"""FlexGen's table of throughput on one T4: 32 tokens for prompts of 256, 512 and 1,024.

The placements are those of the paper's tables and of the benchmark scripts that its authors released.
"""

from dataclasses import dataclass, replace

from simulators.papers.cell import Cell
from simulators.papers.flexgen import OPT, Placement, SoftwareRates, Times, accelerate, deepspeed, flexgen, tokens_per_s
from simulators.profile import HardwareProfile, LinkProfile
from simulators.published import load_profile

NEW = 32
TABLE = "FlexGen (arXiv 2303.06865), tables 2, 15 and 16"
TABLE_256 = "FlexGen (arXiv 2303.06865), its benchmark scripts"
TABLE_DECODING = "FlexGen (arXiv 2303.06865), table 3"
SMALL, MIDDLE, LARGE = OPT("OPT-6.7B", 32, 4096), OPT("OPT-30B", 48, 7168), OPT("OPT-175B", 96, 12288)

DEEPSPEED_EFFICIENCY = 0.577
"""Of the link. Calibrated on OPT-6.7B, 512 tokens."""
RATES = SoftwareRates(decompression_passes=11.63)
"""Calibrated on OPT-175B with 4 bits, 512 tokens."""

_ALL_NEAR = Placement(1)
_ON_HOST = Placement(1, cache_host=1.0, hidden_host=1.0, host_attends=True)
_ON_DRIVE = Placement(1, weights_host=0.5, weights_drive=0.5, cache_drive=1.0, hidden_host=1.0, host_attends=True)
_4_BIT_NEAR = Placement(1, compressed_weights=True, compressed_cache=True)
_4_BIT_CACHE = Placement(1, weights_host=1.0, cache_host=1.0, hidden_host=1.0, compressed_cache=True)
_4_BIT = replace(_4_BIT_CACHE, compressed_weights=True)

_DISK_NOTE = (
    "bound by the drive: 'about 2 GB/s' in the paper; within the bar from 2.41 GB/s on; 2.65 GB/s by Google's "
    "documentation (from memory), as in the variant"
)
_ONE_DIGIT = "printed with one digit: anything from 0.005 to 0.015"
_NOTES = {
    ("FlexGen", LARGE, 256): _DISK_NOTE,
    ("FlexGen", LARGE, 512): _DISK_NOTE,
    ("FlexGen", LARGE, 1024): _DISK_NOTE,
    ("Accelerate", LARGE, 512): _ONE_DIGIT,
    ("Accelerate", LARGE, 1024): _ONE_DIGIT,
    ("DeepSpeed ZeRO-Inference", LARGE, 512): _ONE_DIGIT,
    ("FlexGen, 4 bits", SMALL, 256): (
        "decompression costs more here than the larger batch brings; the two are published 6 % apart, which is less "
        "than this error"
    ),
}


@dataclass(frozen=True, slots=True)
class _Run:
    """``published`` is tokens a second; what is bound by a link or the drive has the narrower bar."""

    model: OPT
    prompt: int
    placement: Placement
    published: str
    bar: float = 0.25


def _on_host(weights_host: float, batch: int, num_batches: int) -> Placement:
    return replace(_ON_HOST, weights_host=weights_host, batch=batch, num_batches=num_batches)


def _block(placement: Placement, batch: int, num_batches: int = 1) -> Placement:
    return replace(placement, batch=batch, num_batches=num_batches)


FLEXGEN = (
    _Run(SMALL, 256, _block(_ALL_NEAR, 4), "53.29", 0.15),
    _Run(SMALL, 512, _block(_ALL_NEAR, 2), "25.26", 0.15),
    _Run(SMALL, 1024, _block(_ALL_NEAR, 1), "13.72", 0.15),
    _Run(MIDDLE, 256, _on_host(0.9, 160, 2), "16.01"),
    _Run(MIDDLE, 512, _on_host(0.8, 48, 3), "7.32"),
    _Run(MIDDLE, 1024, _on_host(0.96, 20, 4), "3.50"),
    _Run(LARGE, 256, _block(_ON_DRIVE, 64, 8), "1.36", 0.15),
    _Run(LARGE, 512, _block(_ON_DRIVE, 32, 8), "0.69", 0.15),
    _Run(LARGE, 1024, _block(_ON_DRIVE, 12, 12), "0.35", 0.15),
)
FLEXGEN_4_BIT = (
    _Run(SMALL, 256, _block(_4_BIT_NEAR, 128), "56.72"),
    _Run(SMALL, 512, _block(_4_BIT_NEAR, 72), "29.12"),
    _Run(SMALL, 1024, _block(_4_BIT_NEAR, 28), "13.18"),
    _Run(MIDDLE, 256, _block(_4_BIT_CACHE, 128, 8), "16.86"),
    _Run(MIDDLE, 512, _block(_4_BIT_CACHE, 64, 8), "8.38"),
    _Run(MIDDLE, 1024, _block(_4_BIT_CACHE, 20, 12), "3.98"),
    _Run(LARGE, 256, _block(_4_BIT, 96, 3), "2.26"),
    _Run(LARGE, 512, _block(_4_BIT, 48, 3), "1.12"),
    _Run(LARGE, 1024, _block(_4_BIT, 12, 4), "0.42"),
)
# Of what follows only the batch and where the weights are matter: all else is near.
DEEPSPEED = (
    _Run(SMALL, 512, Placement(16, weights_host=1.0), "9.28", 0.15),
    _Run(SMALL, 1024, Placement(8, weights_host=1.0), "4.59", 0.15),
    _Run(MIDDLE, 512, Placement(4, weights_host=1.0), "0.60", 0.15),
    _Run(MIDDLE, 1024, Placement(2, weights_host=1.0), "0.29", 0.15),
    _Run(LARGE, 512, Placement(1, weights_drive=1.0), "0.01"),
)
ACCELERATE = (
    _Run(SMALL, 512, Placement(2), "25.12", 0.15),
    _Run(SMALL, 1024, Placement(1), "13.01", 0.15),
    _Run(MIDDLE, 512, Placement(8, weights_host=1.0), "0.62", 0.15),
    _Run(MIDDLE, 1024, Placement(4, weights_host=1.0), "0.31", 0.15),
    _Run(LARGE, 512, Placement(2, weights_drive=1.0), "0.01"),
    _Run(LARGE, 1024, Placement(1, weights_drive=1.0), "0.01"),
)
DECODING = {"OPT-6.7B": "38.28", "OPT-30B": "11.52", "OPT-175B": "0.83"}
"""Table 3: the tokens after the first one over the time for them, prompts of 512."""


def flexgen_cells() -> list[Cell]:
    """All of them, row by row."""
    machine = load_profile("t4_gcp")
    generations = [
        *(("Accelerate", run, _accelerate(run, machine)) for run in ACCELERATE),
        *(("DeepSpeed ZeRO-Inference", run, _deepspeed(run, machine)) for run in DEEPSPEED),
        *(("FlexGen", run, _flexgen(run, machine)) for run in FLEXGEN),
        *(("FlexGen, 4 bits", run, _flexgen(run, machine)) for run in FLEXGEN_4_BIT),
    ]
    generations.sort(key=lambda one: (one[1].model.layers, one[1].prompt))
    return [*(_cell(*one) for one in generations), *_decoding(machine), *_variants(machine)]


def google_disk(machine: HardwareProfile) -> HardwareProfile:
    """The same machine with what Google's documentation says of its drive (from memory) in place of the paper."""
    drive = LinkProfile(2.65e9, 1.4e9, machine.links["nvme->host"].latency_s)
    return replace(machine, links={name: drive if "nvme" in name else link for name, link in machine.links.items()})


def _flexgen(run: _Run, machine: HardwareProfile) -> Times:
    return flexgen(run.model, run.placement, machine, RATES, run.prompt, NEW)


def _deepspeed(run: _Run, machine: HardwareProfile) -> Times:
    on_drive = run.placement.weights_drive > 0
    sequences = run.placement.sequences
    share = DEEPSPEED_EFFICIENCY
    return deepspeed(run.model, sequences, machine, RATES, run.prompt, NEW, efficiency=share, on_drive=on_drive)


def _accelerate(run: _Run, machine: HardwareProfile) -> Times:
    at = run.placement
    weights_on = "drive" if at.weights_drive else "host" if at.weights_host else "device"
    return accelerate(run.model, at.sequences, machine, RATES, run.prompt, NEW, weights_on=weights_on)


def _cell(system: str, run: _Run, times: Times) -> Cell:
    calibrated = {("DeepSpeed ZeRO-Inference", SMALL, 512), ("FlexGen, 4 bits", LARGE, 512)}
    return Cell(
        TABLE_256 if run.prompt == 256 else TABLE,
        f"{run.model.name}, prompts of {run.prompt} tokens",
        system,
        "tokens/s",
        tokens_per_s(times, run.placement.sequences, NEW),
        run.published,
        bar=run.bar,
        is_calibrated=(system, run.model, run.prompt) in calibrated,
        note=_NOTES.get((system, run.model, run.prompt), ""),
    )


def _variants(machine: HardwareProfile) -> list[Cell]:
    other = google_disk(machine)
    note = "the drive as Google documents it"
    cells = [_cell("FlexGen", run, _flexgen(run, other)) for run in FLEXGEN if run.model is LARGE]
    cells += _decoding(other)[-1:]
    return [replace(cell, system="FlexGen, drive at 2.65 GB/s", is_variant=True, note=note) for cell in cells]


def _decoding(machine: HardwareProfile) -> list[Cell]:
    cells = []
    for run in (run for run in FLEXGEN if run.prompt == 512):
        times = _flexgen(run, machine)
        ours = run.placement.sequences * (NEW - 1) / times.decode_s
        note = _DISK_NOTE if run.model is LARGE else ""
        row = f"{run.model.name}, decoding alone"
        published = DECODING[run.model.name]
        cells.append(Cell(TABLE_DECODING, row, "FlexGen", "tokens/s", ours, published, run.bar, note=note))
    return cells
