"""What the drive gives to a program that only reads: measured again and again beside a benchmark."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from offload.bench.fio import ENGINES, Fio, FioFailed, find_fio
from offload.disk_speed import FILL_NBYTES, Pattern, descriptor, file_nbytes, lay_down, measure
from tiers.nvme_tier import NVMeTier

_PATTERN = Pattern(512 * 1024, is_write=False, is_random=True)


@dataclass(slots=True)
class Drive:
    """Random reads of 512 KiB, 16 deep: fio's with its better engine, or our own where fio is not installed."""

    _tier: NVMeTier
    _fio: Fio | None
    _engine: str | None
    _nbytes: int
    _seconds: float
    _seed: int

    @classmethod
    @contextmanager
    def opened(cls, directory: Path, *, seconds: float, most_nbytes: int, seed: int) -> Iterator[Self]:
        """Write a file to read from, once; each measurement takes ``seconds``. Raises as ``NVMeTier``."""
        tier = NVMeTier(directory, max(1, min(file_nbytes(directory), most_nbytes) // FILL_NBYTES), FILL_NBYTES)
        try:
            nbytes = lay_down(tier, seconds=20)
            fio = find_fio(direct=tier.direct, nbytes=nbytes, seed=seed)
            drive = cls(tier, fio, None, nbytes, seconds, seed)
            if fio:
                rates = {engine: drive._fio_rate(engine) for engine in ENGINES}
                best = max(rates, key=lambda engine: rates[engine])
                drive._engine = best if rates[best] else None
            yield drive
        finally:
            tier.close()

    @property
    def tool(self) -> str:
        """What measures."""
        return f"fio {self._engine}" if self._engine else "our own queue (fio is not installed or does not work)"

    def bytes_per_s(self) -> float:
        """The rate now."""
        if self._engine and (rate := self._fio_rate(self._engine)):
            return rate
        return measure(self._tier, _PATTERN, nbytes=self._nbytes, seconds=self._seconds, seed=self._seed).bytes_per_s

    def _fio_rate(self, engine: str) -> float:
        """0 where fio fails."""
        assert self._fio
        found = self._fio.measure(descriptor(self._tier), _PATTERN, engine, self._seconds)
        return 0.0 if isinstance(found, FioFailed) else found.bytes_per_s
