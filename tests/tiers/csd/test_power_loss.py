"""The power goes at every write that a drive makes: what comes back is what was acknowledged, and never wrong."""

import shutil
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.tiers.csd.kit import BY_CHANNELS, CONFIG, SMALL, attend, attention, open_store, tokens, write
from tiers.csd import image as image_module
from tiers.csd.commands import Config, Inspect, Reclaim
from tiers.csd.image import FlashImage
from tiers.csd.store import DriveStore
from tiers.errors import TokensLostError, TransferError

TOKENS = {sequence: tokens(200, seed=sequence) for sequence in range(8)}


class PowerCutError(Exception):
    """Nothing is written any more."""


class Power:
    """Lets so many writes of an image through, then part of one, then none."""

    def __init__(self, image: FlashImage, num_writes: int, part: float = 0.0) -> None:
        self.left, self.part = num_writes, part
        self.num_writes = 0
        self._write = image.file.write
        image.file.write = self.write  # type: ignore[method-assign]

    def write(self, offset: int, data: memoryview) -> None:
        self.num_writes += 1
        if self.left <= 0:
            if self.left == 0 and self.part:
                self._write(offset, data[: int(self.part * data.nbytes)])
            self.left = -1
            raise PowerCutError
        self.left -= 1
        self._write(offset, data)


class Host:
    """Keeps the books of what it was told."""

    def __init__(self, store: DriveStore, config: Config = CONFIG) -> None:
        self.store = store
        self.config = config
        self.written: dict[int, int] = {}
        self.flushed: dict[int, int] = {}
        self.dying: set[int] = set()

    def write(self, sequence: int, n: int) -> None:
        first = self.written.get(sequence, 0)
        self.written[sequence] = first + n  # of which any part may have arrived
        answer = self.store.write_kv(write(TOKENS[sequence], first, first + n, sequence=sequence))
        self.flushed[sequence] = answer.num_flushed

    def decode(self, sequence: int, n: int) -> None:
        for _ in range(n):
            token = self.written[sequence]
            self.written[sequence] += 1
            self.store.attend(attend(TOKENS[sequence], token, sequence=sequence))
            self.flushed[sequence] = self.store.inspect(Inspect(1, sequence)).num_flushed[0]
        self.idle()

    def idle(self) -> None:
        while self.store.work():
            for sequence in self.flushed:
                self.flushed[sequence] = self.store.inspect(Inspect(1, sequence)).num_flushed[0]

    def reclaim(self, *sequences: int) -> None:
        self.dying |= set(sequences)
        self.store.reclaim(Reclaim(1, sequences))
        for sequence in sequences:
            del self.written[sequence], self.flushed[sequence]
        self.dying = set()

    def live(self) -> None:
        """A life with everything in it: long and short writes, erases, a journal that goes over to its other area."""
        self.store.configure(self.config)
        self.write(0, 140)
        self.decode(0, 20)
        for _ in range(3):
            for sequence in (1, 2, 3):
                self.write(sequence, 100)
                self.decode(sequence, 30)
            self.reclaim(1, 3)
            self.idle()
            self.write(4, 170)
            self.reclaim(4, 2)
        self.decode(0, 5)


@pytest.fixture(autouse=True)
def _small_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "_JOURNAL_SLACK_NBYTES", 4096)
    monkeypatch.setattr(image_module, "_JOURNAL_NBYTES_PER_PAGE", 20)


def comes_back(path: Path, host: Host) -> None:
    """A drive that is opened after the end of ``host`` holds what the host was promised, and goes on."""
    with closing(open_store(path)) as store:
        store.check()
        held = {key.sequence for key in store._layers}
        assert set(host.flushed) - host.dying <= held | {s for s, n in host.flushed.items() if n == 0}
        assert held <= set(host.written)
        for sequence in sorted(held):
            made, state = TOKENS[sequence], store.inspect(Inspect(1, sequence))
            n = state.num_tokens[0]
            assert host.flushed.get(sequence, 0) <= n <= host.written[sequence]
            assert state.num_flushed[0] == n
            with pytest.raises(TokensLostError, match=f"the drive holds {n}; write from token {n} again"):
                store.attend(attend(made, n + 1, sequence=sequence))
            answer = store.attend(attend(made, n, sequence=sequence))
            assert np.abs(answer.output[0] - attention(made, n + 1)[0]).max() < 1e-5
            store.write_kv(write(made, n + 1, n + 20, sequence=sequence))
            answer = store.attend(attend(made, n + 20, sequence=sequence))
            assert np.abs(answer.output[0] - attention(made, n + 21)[0]).max() < 1e-5
        store.check()


def count_writes(path: Path, config: Config) -> int:
    with closing(open_store(path)) as store:
        power = Power(store._image, 1 << 30)
        Host(store, config).live()
        assert bool(store._flash.orders) == (config is BY_CHANNELS)
        assert store.health().blocks_erased > 0
        assert store._flash.journal._serial > 60, "the journal went over to its other area"
        return power.num_writes


@pytest.mark.parametrize("part", [0.0, 0.4])
@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("config", [CONFIG, BY_CHANNELS], ids=["dense", "by channels"])
def test_whenever_the_power_goes(tmp_path: Path, part: float, step: int, config: Config) -> None:
    """Between two writes, or in the middle of one."""
    num_writes = count_writes(tmp_path / "whole", config)
    (tmp_path / "whole").unlink()
    for left in range(int(10 * part), num_writes, step):
        path = tmp_path / str(left)
        store = open_store(path)
        Power(store._image, left, part)
        host = Host(store, config)
        with pytest.raises(PowerCutError):
            host.live()
        store._image.close()
        comes_back(path, host)
        path.unlink()


def test_the_power_goes_again_while_the_drive_comes_back(tmp_path: Path) -> None:
    """At every write of a journal that is being restarted."""
    store = open_store(tmp_path / "image")
    host = Host(store)
    host.live()
    store._image.close()
    for left in range(8):
        path = tmp_path / "copy"
        shutil.copy(tmp_path / "image", path)
        image = FlashImage(path, SMALL, keep=True)
        Power(image, left, 0.5)
        with suppress(PowerCutError):
            DriveStore(image)
        image.close()
        comes_back(path, host)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_damaged_is_lost_not_wrong(tmp_path: Path, seed: int) -> None:
    """One bit of a page is wrong: the sequence ends before it, the others are whole."""
    path = tmp_path / "image"
    store = open_store(path)
    host = Host(store)
    store.configure(CONFIG)
    for sequence in (0, 1):
        host.write(sequence, 160)
    pages = store._flash.tables.all_pages()
    random = Random(seed)
    page = int(pages[random.randrange(pages.size)])
    offset = store._image._first_page + page * SMALL.page_nbytes + random.randrange(SMALL.page_nbytes)
    store._image.close()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))
    damaged = {0: 160, 1: 160}
    with closing(open_store(path)) as store:
        assert store.health().lost_pages > 0
        held = {sequence: store.inspect(Inspect(1, sequence)).num_tokens[0] for sequence in (0, 1)}
    losers = [sequence for sequence in (0, 1) if held[sequence] < damaged[sequence]]
    assert len(losers) <= 1
    host.flushed |= {sequence: held[sequence] for sequence in losers}
    comes_back(path, host)


def test_a_failed_write_fails_its_command_and_no_other(tmp_path: Path) -> None:
    """The drive goes on where a write failed: the pages that it was meant for are dead."""
    made = TOKENS[0]
    with closing(open_store(tmp_path / "image")) as store:
        store.configure(CONFIG)
        store.write_kv(write(made, 0, 40))
        sound = store._image.file.write

        def fail(offset: int, data: memoryview) -> None:
            raise TransferError("no such luck", tier="csd")

        for num_sound in range(4):
            left = iter(range(num_sound))
            store._image.file.write = lambda offset, data, left=left: (sound if next(left, None) is not None else fail)(  # type: ignore[method-assign,misc]
                offset, data
            )
            with pytest.raises(TransferError, match="no such luck"):
                store.write_kv(write(made, 40, 100))
            store._image.file.write = sound  # type: ignore[method-assign]
            store.check()
            assert store.inspect(Inspect(1, 0)).num_tokens == (40, 0)
        store.write_kv(write(made, 40, 100))
        answer = store.attend(attend(made, 100))
        assert np.abs(answer.output[0] - attention(made, 101)[0]).max() < 1e-5
        store.check()


def test_a_block_whose_opening_was_not_recorded_is_not_given_away(tmp_path: Path) -> None:
    """The write that failed was that of the record; what is written to the block afterwards survives, and is not
    written over by a drive that comes back."""
    made, path = TOKENS[0], tmp_path / "image"
    store = open_store(path)
    store.configure(CONFIG)
    sound = store._image.file.write

    def fail(offset: int, data: memoryview) -> None:
        raise TransferError("no such luck", tier="csd")

    store._image.file.write = fail  # type: ignore[method-assign]
    with pytest.raises(TransferError):
        store.write_kv(write(made, 0, 64))
    store._image.file.write = sound  # type: ignore[method-assign]
    store.write_kv(write(made, 0, 64))
    store._image.close()
    with closing(open_store(path)) as again:
        again.check()
        for sequence in range(1, 7):
            again.write_kv(write(TOKENS[sequence], 0, 128, sequence=sequence))
        answer = again.attend(attend(made, 64))
        assert np.abs(answer.output[0] - attention(made, 65)[0]).max() < 1e-5


def test_an_erase_is_counted_once(tmp_path: Path) -> None:
    """Also where its record is the one for which the journal goes over to its other area."""
    path = tmp_path / "image"
    store = open_store(path)
    Host(store).live()
    journal, erased = store._flash.journal, 0
    for sequence in range(8):
        store.write_kv(write(TOKENS[0], 0, 64, sequence=100 + sequence))
        store.reclaim(Reclaim(1, (100 + sequence,)))
        if sequence == 4:
            journal._end = journal._areas[journal._area].stop - 40  # no room for anything
            before = store.health().wear_mean
            while store.work():
                pass
            erased = store.health().blocks_erased
    wear = store._flash.blocks.wear.copy()
    assert erased
    assert store.health().wear_mean > before
    store._image.close()
    with closing(open_store(path)) as again:
        assert (again._flash.blocks.wear == wear).all()
