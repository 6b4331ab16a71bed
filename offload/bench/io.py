"""Reads and writes of the nvme tier against fio on the same file, turn by turn, so that both see the same drive."""

import mmap
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from offload.bench.fio import ENGINES, Fio, FioFailed, find_fio
from offload.bench.header import header
from offload.disk_speed import FILL_NBYTES, Check, Pattern, Throughput, descriptor, file_nbytes, lay_down, measure
from tiers.checksum import crc32c
from tiers.errors import CorruptBlockError
from tiers.nvme_tier import NVMeTier

if TYPE_CHECKING:
    from offload.bench.io_device import DeviceBench

Progress = Callable[[int, int], None]
"""Called with the runs done and the runs in all."""

Row = dict[str, object]

SIZES = (64 * 2**10, 256 * 2**10, 2**20, 4 * 2**20, 16 * 2**20)
DEPTH = 16

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
_LAY_DOWN_S = 20.0


@dataclass(slots=True)
class _Turns:
    """All runs of one pattern: ours, and fio's by engine. An engine that failed once is not tried again."""

    ours: list[Throughput] = field(default_factory=list)
    fio: dict[str, list[Throughput]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def best_engine(self) -> str | None:
        """The one with the higher median; None without any."""
        engines = self.fio.keys() - self.failures.keys()
        return max(engines, key=lambda engine: _median_rate(self.fio[engine]), default=None)


@dataclass(frozen=True, slots=True)
class _Bench:
    """What all runs have in common. ``tick`` is called after each."""

    tier: NVMeTier
    fio: Fio | None
    nbytes: int
    seed: int
    rounds: int
    seconds_per_row: float
    tick: Callable[[], None]

    def take_turns(self, pattern: Pattern, check: Check | None = None) -> _Turns:
        """Ours, then fio with each engine, and again: a drive that changes its mind does so for all of them."""
        turns = _Turns(fio={engine: [] for engine in ENGINES} if self.fio else {})
        run_s = self.seconds_per_row / (self.rounds * (1 + len(turns.fio)))
        for turn in range(self.rounds):
            turns.ours.append(
                measure(self.tier, pattern, nbytes=self.nbytes, seconds=run_s, seed=self.seed + turn, check=check)
            )
            self.tick()
            for engine, runs in turns.fio.items():
                if self.fio and engine not in turns.failures:
                    result = self.fio.measure(descriptor(self.tier), pattern, engine, run_s)
                    if isinstance(result, FioFailed):
                        turns.failures[engine] = result.reason
                    else:
                        runs.append(result)
                self.tick()
        return turns


def bench_io(
    nvme_dir: Path,
    *,
    progress: Progress | None = None,
    seconds_per_row: float = 18.0,
    sizes: Sequence[int] = SIZES,
    file_bytes: int | None = None,
    rounds: int = 3,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, object]:
    """Random reads and sequential writes of ``sizes`` bytes with 16 in flight, then reads that check CRC32C.

    Medians over ``rounds``. ``peer`` is fio with the better of its engines, and that is also the ``limit``: what the
    drive gives to a program that does nothing else. Processor time is better when lower: its ratio is fio's over ours.
    Without fio the key ``fio`` says so and rows have neither. With ``device``, a torch device, come rows of copies to
    and from it, whose limit is a plain copy or the drive. Raises InvalidOptionError, DiskFullError, TierBusyError,
    TransferError.
    """
    wanted = file_nbytes(nvme_dir) if file_bytes is None else file_bytes
    tier = NVMeTier(nvme_dir, -(-wanted // FILL_NBYTES), FILL_NBYTES)
    try:
        nbytes = lay_down(tier, seconds=_LAY_DOWN_S)
        sizes = [size for size in sizes if size <= nbytes]
        fio = find_fio(direct=tier.direct, nbytes=nbytes, seed=seed)
        num_runs = (2 * len(sizes) + 1) * rounds * (1 + (len(ENGINES) if fio else 0))
        on_device = _device_bench(device, tier, nbytes, rounds, seconds_per_row) if device else None
        tick = _ticker(progress, num_runs + (on_device.num_runs if on_device else 0))
        bench = _Bench(tier, fio, nbytes, seed, rounds, seconds_per_row, tick)
        rows = _read_rows(bench, sizes) + _verified_rows(bench) + _write_rows(bench, sizes)
        if on_device:
            _seal(tier, nbytes)
            rows += on_device.rows(tick)
        return header(seed=seed, directory=nvme_dir) | {
            "fio": fio.version() if fio else "not installed: no peer and no limit; apt-get install fio",
            "o_direct": tier.direct,
            "o_direct_note": tier.fallback_reason,
            "queue_depth": DEPTH,
            "file_bytes": nbytes,
            "rounds": rounds,
            "seconds_per_row": seconds_per_row,
            "rows": rows,
        }
    finally:
        tier.close()


def _read_rows(bench: _Bench, sizes: Sequence[int]) -> list[Row]:
    rows = []
    for size in sizes:
        turns = bench.take_turns(Pattern(size, is_write=False, is_random=True, depth=DEPTH))
        name = f"random read {_size(size)}"
        rows += [_rate_row(name, turns), _cpu_row(name, turns)]
    return rows


def _write_rows(bench: _Bench, sizes: Sequence[int]) -> list[Row]:
    rows = []
    for size in sizes:
        turns = bench.take_turns(Pattern(size, is_write=True, is_random=False, depth=DEPTH))
        name = f"sequential write {_size(size)}"
        rows += [_rate_row(name, turns), _cpu_row(name, turns)]
    return rows


def _verified_rows(bench: _Bench) -> list[Row]:
    """Reads of blocks whose checksums are compared, against fio, which compares nothing."""
    expected = _checksums(bench.tier, bench.nbytes)

    def check(offset: int, block: memoryview) -> None:
        found, wanted = crc32c(block), expected[offset // FILL_NBYTES]
        if found != wanted:
            raise CorruptBlockError("nvme", block=f"block at {offset:,}", expected=wanted, found=found)

    turns = bench.take_turns(Pattern(FILL_NBYTES, is_write=False, is_random=True, depth=DEPTH), check)
    name = f"random read {_size(FILL_NBYTES)}, CRC32C checked"
    return [_rate_row(name, turns), _cpu_row(name, turns)]


def _device_bench(device: str, tier: NVMeTier, nbytes: int, rounds: int, seconds_per_row: float) -> "DeviceBench":
    from offload.bench.io_device import DeviceBench

    return DeviceBench(device, tier, nbytes, rounds, seconds_per_row)


def _seal(tier: NVMeTier, nbytes: int) -> None:
    """What was laid down, and written over since, becomes blocks that can be read through a link."""
    for slot, checksum in enumerate(_checksums(tier, nbytes)):
        tier.seal(slot, checksum)


def _checksums(tier: NVMeTier, nbytes: int) -> list[int]:
    block = memoryview(mmap.mmap(-1, FILL_NBYTES))
    checksums = []
    for offset in range(0, nbytes, FILL_NBYTES):
        os.preadv(descriptor(tier), [block], offset)
        checksums.append(crc32c(block))
    return checksums


def _rate_row(name: str, turns: _Turns) -> Row:
    ours = _median_rate(turns.ours)
    row: Row = {"name": name, "unit": "GiB/s", "ours": ours}
    engine = turns.best_engine()
    if engine is not None:
        peer = _median_rate(turns.fio[engine])
        row |= {"peer": peer, "peer_name": f"fio {engine}", "ratio_to_peer": ours / peer}
        row |= {"limit": peer, "ratio_to_limit": ours / peer}
    return row | _failures(turns)


def _cpu_row(name: str, turns: _Turns) -> Row:
    ours = _median_cpu(turns.ours)
    row: Row = {"name": f"{name}, processor time", "unit": "CPU s/GiB", "ours": ours}
    engine = turns.best_engine()
    if engine is not None:
        peer = _median_cpu(turns.fio[engine])
        row |= {"peer": peer, "peer_name": f"fio {engine}", "ratio_to_peer": peer / ours}
    return row | _failures(turns)


def _failures(turns: _Turns) -> Row:
    return {"fio_failures": list(turns.failures.values())} if turns.failures else {}


def _median_rate(runs: Sequence[Throughput]) -> float:
    return statistics.median(run.bytes_per_s for run in runs) / _GIB


def _median_cpu(runs: Sequence[Throughput]) -> float:
    return statistics.median(run.cpu_s_per_gib for run in runs)


def _size(nbytes: int) -> str:
    return f"{nbytes // _MIB} MiB" if nbytes >= _MIB else f"{nbytes // _KIB} KiB"


def _ticker(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    return tick
