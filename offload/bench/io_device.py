"""Copies between host memory, a drive and a device against the plainest way to do each, turn by turn."""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from offload.disk_speed import Pattern, measure
from tiers.device_tier import DeviceTier
from tiers.errors import InvalidOptionError
from tiers.gds import find_gds
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.pinned_tier import PinnedTier
from tiers.tier import Tier
from tiers.transfer import Move, Priority, TransferConfig, TransferEngine

Row = dict[str, object]

COPY_NBYTES = 512 * 2**20
LARGE_NBYTES = 4 * 2**20
KV_NBYTES = (8 * 2**10, 64 * 2**10)
"""KV blocks of 16 tokens: of a layer with two heads of 64, and with eight of 128, in bfloat16."""

_PLAIN = "plain asynchronous copies of all of it"
_AT_A_TIME = 4
"""Transfers, or plain copies, that are asked for before the first is waited for, as a run that prefetches does."""

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30

Run = Callable[[], float]
"""Moves everything once and returns bytes per second."""


@dataclass(frozen=True, slots=True)
class DeviceBench:
    """What the rows have in common. Raises InvalidOptionError if there is no such device."""

    device: str
    tier: NVMeTier
    nbytes: int
    """Bytes of the tier's file that hold sealed blocks, one to a slot."""
    rounds: int
    seconds_per_row: float
    copy_nbytes: int = COPY_NBYTES

    def __post_init__(self) -> None:
        try:
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:  # an assertion where torch was built without CUDA
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InvalidOptionError(f"--device {self.device}: {reason}; name one that is here, or cpu") from None

    @property
    def num_runs(self) -> int:
        rows = 2 + 2 * len(KV_NBYTES) + 1 + self._has_kvikio
        return 2 * self.rounds * rows

    def rows(self, tick: Callable[[], None]) -> list[Row]:
        """Rates in GiB/s; ``limit`` is what link and drive give to a program that does nothing else.

        Calls ``tick`` after each of ``num_runs`` runs.
        """
        rows = []
        for block_nbytes in (LARGE_NBYTES, *KV_NBYTES):
            is_large = block_nbytes == LARGE_NBYTES
            what = f"{_size(block_nbytes)} blocks" if is_large else f"scattered KV blocks of {_size(block_nbytes)}"
            for is_down in (True, False):
                with self._copies(block_nbytes, is_down=is_down) as (ours, plain):
                    rates = self._take_turns(ours, plain, tick)
                where = f"host to {self.device}" if is_down else f"{self.device} to host"
                rows.append(_row(f"{where}, {what}", *rates, peer_name=_PLAIN, limit=rates[1]))
        from_host = rows[0]["limit"]
        assert isinstance(from_host, float)
        return rows + self._file_rows(from_host, tick)

    def _file_rows(self, from_host: float, tick: Callable[[], None]) -> list[Row]:
        """Checksums are compared in ours, not in the peer, which only reads."""
        with self._reads("staged") as (ours, raw):
            rates = self._take_turns(ours, raw, tick)
        limit = min(rates[1], from_host)
        rows = [_row(f"nvme to {self.device}, CRC32C checked", *rates, peer_name="raw reads to host", limit=limit)]
        if self._has_kvikio:
            with self._reads("kvikio") as (ours, raw):
                rates = self._take_turns(ours, raw, tick)
            limit = min(rates[1], from_host)
            name = f"nvme to {self.device} by kvikio, CRC32C checked"
            rows.append(_row(name, *rates, peer_name="raw reads to host", limit=limit) | {"kvikio": find_gds().note})
        return rows

    @property
    def _has_kvikio(self) -> bool:
        return torch.device(self.device).type == "cuda" and find_gds().works

    def _take_turns(self, ours: Run, plain: Run, tick: Callable[[], None]) -> tuple[float, float]:
        """Medians in GiB/s of as many turns as the time allows, but at least ``rounds``."""
        found: tuple[list[float], list[float]] = ([], [])
        deadline = time.perf_counter() + self.seconds_per_row
        for turn in range(1000):
            if turn >= self.rounds and time.perf_counter() > deadline:
                break
            for run, rates in zip((ours, plain), found, strict=True):
                rates.append(run())
                if turn < self.rounds:
                    tick()
        return statistics.median(found[0]) / _GIB, statistics.median(found[1]) / _GIB

    @contextmanager
    def _copies(self, block_nbytes: int, *, is_down: bool) -> Iterator[tuple[Run, Run]]:
        """Ours moves blocks between slots drawn at random, large ones in order; the plain way is one copy of it all."""
        count = self.copy_nbytes // block_nbytes
        with ExitStack() as stack:
            host = stack.enter_context(closing(PinnedTier("host", count, block_nbytes, device=self.device)))
            device = stack.enter_context(closing(DeviceTier("device", count, block_nbytes, self.device)))
            _fill(host)
            engine = stack.enter_context(closing(TransferEngine()))
            slots = list(range(count))
            if block_nbytes != LARGE_NBYTES:
                random.Random(0).shuffle(slots)  # noqa: S311 - a repeatable order
            moves = [Move(slot, place) for slot, place in enumerate(slots)]
            source, target = (host, device) if is_down else (device, host)
            here = torch.frombuffer(host.buffer, dtype=torch.uint8)
            ends = (here, device.buffer) if is_down else (device.buffer, here)

            def plain() -> float:
                return _rate(_AT_A_TIME * host.nbytes, lambda: _copy(*ends, times=_AT_A_TIME))

            _copy(*ends, times=1)
            yield _run(engine, source, target, moves, host.nbytes, times=_AT_A_TIME), plain

    @contextmanager
    def _reads(self, how: Literal["staged", "kvikio"]) -> Iterator[tuple[Run, Run]]:
        chunk = TransferConfig().chunk_nbytes
        pattern = Pattern(min(chunk, self.nbytes), is_write=False, is_random=False)
        count = self.nbytes // self.tier.block_nbytes
        with ExitStack() as stack:
            device = stack.enter_context(closing(DeviceTier("device", count, self.tier.block_nbytes, self.device)))
            engine = stack.enter_context(closing(TransferEngine(TransferConfig(files_to_device=how))))
            moves = [Move(slot, slot) for slot in range(count)]

            def raw() -> float:
                seconds = self.seconds_per_row / (4 * self.rounds)
                return measure(self.tier, pattern, nbytes=self.nbytes, seconds=seconds).bytes_per_s

            yield _run(engine, self.tier, device, moves, self.nbytes, times=1), raw


def _run(engine: TransferEngine, source: Tier, target: Tier, moves: Sequence[Move], nbytes: int, *, times: int) -> Run:
    def move() -> None:
        for transfer in [engine.submit(source, target, moves, Priority.DEMAND) for _ in range(times)]:
            engine.wait(transfer)

    # What is made at the first use, a link and its kernel, is not what is measured.
    engine.wait(engine.submit(source, target, moves[:64], Priority.DEMAND))
    return lambda: _rate(times * nbytes, move)


def _fill(tier: MemoryTier) -> None:
    block: Any = random.Random(0).randbytes(min(_MIB, tier.nbytes))  # noqa: S311 - filler
    for start in range(0, tier.nbytes, len(block)):
        part = tier.buffer[start : start + len(block)]
        part[:] = block[: part.nbytes]


def _copy(source: torch.Tensor, target: torch.Tensor, *, times: int) -> None:
    for _ in range(times):
        target.copy_(source, non_blocking=True)
    for end in (source, target):
        if end.is_cuda:
            torch.cuda.synchronize(end.device)


def _rate(nbytes: int, move: Callable[[], None]) -> float:
    start = time.perf_counter()
    move()
    return nbytes / (time.perf_counter() - start)


def _row(name: str, ours: float, peer: float, *, peer_name: str, limit: float) -> Row:
    row: Row = {"name": name, "unit": "GiB/s", "ours": ours}
    row |= {"peer": peer, "peer_name": peer_name, "ratio_to_peer": ours / peer}
    return row | {"limit": limit, "ratio_to_limit": ours / limit}


def _size(nbytes: int) -> str:
    return f"{nbytes // _MIB} MiB" if nbytes >= _MIB else f"{nbytes // _KIB} KiB"
