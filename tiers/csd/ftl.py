"""The flash translation layer: pages by what they hold, each written once, checked whenever it is read.

What survives the power: a page counts from the moment in which the journal names it, and the journal names it after
it was programmed. So a sequence holds, after whatever end, the pages of those ``append`` calls that had returned and at
most those of the one that was under way, all of them or none; everything is read once and compared with its checksum
before it is believed (see ``recovery``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiers.checksum import crc32c
from tiers.csd.address import ADDRESS, Addresses
from tiers.csd.blocks import EraseBlocks
from tiers.csd.chain import Checksums, chained, is_sound, which_are_sound
from tiers.csd.geometry import PageNumbers
from tiers.csd.image import Bytes, FlashImage
from tiers.csd.journal import PAGE_RECORD, Journal, RecordKind
from tiers.csd.page_log import PageLog
from tiers.csd.page_table import MAPPED_KINDS, LayerKey, MappingTables
from tiers.csd.pages import Indices, KVShape, PageKind
from tiers.csd.trace import COPIED, ERASED, PROGRAMMED, Trace
from tiers.errors import CorruptBlockError

PageRecords = NDArray[np.void]
"""[n] of PAGE_RECORD."""


@dataclass(slots=True)
class FlashCounts:
    """What the flash did since the drive was opened."""

    pages_read: int = 0
    pages_programmed: int = 0
    blocks_erased: int = 0


class FlashTranslation:
    """Everything that the drive knows of its flash. ``recovery.recover`` fills one from an image; see there."""

    def __init__(self, image: FlashImage, name: str = "csd") -> None:
        self.image = image
        self.name = name
        self.blocks = EraseBlocks(image.geometry, name)
        self.tables = MappingTables()
        self.tasks: dict[int, bytes] = {}
        """What was recorded of each task; only the store knows what it means."""
        self.orders: dict[LayerKey, Indices] = {}
        """Of the channels of each KV head in the channel index, where it is not the natural one."""
        self.counts = FlashCounts()
        self.trace: Trace | None = None
        """Where it is wanted: what was done, for a model of time."""
        self.journal = Journal(image.file, image.journal_areas)
        self.checksums: Checksums = np.zeros(image.geometry.num_pages, np.uint32)
        self.seeds: Checksums = np.zeros(image.geometry.num_pages, np.uint32)
        # Blocks that are open and not recorded to be so, because recording them failed: nothing of them is programmed.
        self._opened: PageNumbers = np.empty(0, np.int64)
        self._addresses: Addresses = np.zeros(image.geometry.num_pages, np.uint64)

    def add_task(self, task: int, description: bytes) -> None:
        """Remember a task; raises TransferError."""
        self._record(RecordKind.TASK, description)
        self.tasks[task] = description

    def add_layer(self, key: LayerKey, shape: KVShape) -> None:
        """From now on ``append`` knows this layer."""
        self.tables.add(key, shape)

    def set_order(self, key: LayerKey, order: Indices) -> None:
        """Remember how channels [heads, head_dim] will lie, before any of them does; raises TransferError."""
        assert not self.tables.channels[key].num_pages, "channels lie in another order already"
        self._record(RecordKind.ORDER, _order_record(key, order))
        self.orders[key] = order

    def append(self, key: LayerKey, parts: Sequence[tuple[PageKind, Bytes]]) -> PageNumbers:
        """Program pages [heads, n, page_nbytes] of each kind behind those that are there; returns where they went.

        All or nothing, also when the power goes. Raises DriveFullError, TransferError.
        """
        num_pages = sum(pages.shape[0] * pages.shape[1] for _, pages in parts)
        self.make_room(num_pages)
        allocation = self.blocks.allocate(key.task, num_pages)
        self._opened = np.union1d(self._opened, allocation.opened)
        if self._opened.size:
            self._record(RecordKind.OPENED, _numbers(self._opened))
            self._opened = np.empty(0, np.int64)
        records = np.empty(num_pages, PAGE_RECORD)
        records["page"] = allocation.pages
        start = 0
        for kind, pages in parts:
            heads, n, nbytes = pages.shape
            stop = start + heads * n
            self.image.program(allocation.pages[start:stop], pages.reshape(heads * n, nbytes))
            table = self.tables.of(key, kind)
            indices = np.arange(table.num_pages, table.num_pages + n)
            records["address"][start:stop] = _addresses(key, kind, heads, indices).reshape(-1)
            last = self.checksums[table.all()[:, -1]] if table.num_pages else np.zeros(heads, np.uint32)
            seeds, checksums = chained(pages, last)
            records["seed"][start:stop], records["crc"][start:stop] = seeds.reshape(-1), checksums.reshape(-1)
            start = stop
        self._record(RecordKind.FLUSHED, records.tobytes())
        self.adopt(records)
        self.counts.pages_programmed += num_pages
        if self.trace is not None:
            self.trace.add(PROGRAMMED, allocation.pages)
        start = 0
        for kind, pages in parts:
            stop = start + pages.shape[0] * pages.shape[1]
            self.tables.of(key, kind).extend(allocation.pages[start:stop].reshape(pages.shape[:2]))
            start = stop
        return allocation.pages

    def read(self, key: LayerKey, kind: PageKind, head: int, indices: Indices) -> Bytes:
        """[n, page_nbytes], a view where they lie together. Raises CorruptBlockError."""
        pages = self.tables.of(key, kind).look_up(head, indices)
        data = self.image.read(pages)
        self.counts.pages_read += pages.size
        seeds, checksums = self.seeds[pages], self.checksums[pages]
        if not is_sound(data, seeds, checksums):
            wrong = int(which_are_sound(data, seeds, checksums).argmin())
            raise CorruptBlockError(
                self.name,
                block=f"{kind.name} page {int(indices[wrong])} of {key}, head {head}",
                expected=int(checksums[wrong]),
                found=crc32c(data[wrong].data, int(seeds[wrong])),
            )
        return data

    def read_back(self, key: LayerKey, kind: PageKind, head: int, indices: Indices) -> Bytes:
        """As ``read``, for the drive itself: what is read is to be programmed in another order."""
        if self.trace is not None:
            self.trace.add(COPIED, self.tables.of(key, kind).look_up(head, indices))
        return self.read(key, kind, head, indices)

    def trace_reads(self, key: LayerKey, log: PageLog) -> None:
        """Remember where the pages lie that an engine read."""
        assert self.trace is not None
        for phase, rows in log:
            pages = np.empty(len(rows), np.int64)
            for kind in MAPPED_KINDS:
                mine = np.flatnonzero(rows[:, 0] == kind)
                if mine.size:
                    pages[mine] = self.tables.of(key, kind).all()[rows[mine, 1], rows[mine, 2]]
            self.trace.add(phase, pages)

    def finish(self, task: int, sequences: Sequence[int]) -> None:
        """The pages of these sequences are dead. Erasing waits until the drive is idle or needs the room."""
        if not sequences:
            return
        self._record(RecordKind.FINISHED, _numbers(np.array([[task, sequence] for sequence in sequences])))
        wanted = set(sequences)
        for key in [key for key in self.tables.tokens if key.task == task and key.sequence in wanted]:
            self.blocks.kill(self.tables.remove(key))
            self.orders.pop(key, None)
        if not any(key.task == task for key in self.tables.tokens):
            self.blocks.close(task)

    def erase(self, most: int) -> PageNumbers:
        """Erase up to so many dead blocks; returns them. Raises TransferError."""
        blocks = self.blocks.erasable(most)
        if blocks.size:
            # First, because room for the record may be made by writing down the state, wear and all, as it is now.
            self._record(RecordKind.ERASED, _numbers(blocks))
            self.blocks.erase(blocks.size)
            self.counts.blocks_erased += blocks.size
            if self.trace is not None:
                self.trace.add(ERASED, blocks)
        return blocks

    def make_room(self, num_pages: int) -> None:
        """Erase what has to be erased for so many pages to be free; raises DriveFullError, TransferError."""
        self.blocks.require(num_pages)
        missing = num_pages - self.blocks.num_free
        if missing > 0:
            self.erase(-(-missing // self.image.geometry.pages_per_block))

    def adopt(self, records: PageRecords) -> None:
        """Pages that were recorded hold something from now on."""
        pages = records["page"].astype(np.int64)
        self.checksums[pages], self.seeds[pages] = records["crc"], records["seed"]
        self._addresses[pages] = records["address"]
        self.blocks.commit(pages)

    def restart_journal(self) -> None:
        """Write the state of now as the start of a new area; raises TransferError."""
        self.journal.restart(self._state())

    def check(self) -> None:
        """Raise AssertionError if the tables, the books and the addresses do not agree."""
        self.blocks.check()
        mapped = self.tables.all_pages()
        assert mapped.size == np.unique(mapped).size, "a page is mapped twice"
        assert mapped.size == self.blocks.num_valid, f"{mapped.size} pages mapped, {self.blocks.num_valid} valid"
        assert self.blocks.is_valid[mapped].all(), "a mapped page is not valid"
        for key in self.tables.tokens:
            for kind in MAPPED_KINDS:
                table = self.tables.of(key, kind).all()
                expected = _addresses(key, kind, table.shape[0], np.arange(table.shape[1]))
                assert (self._addresses[table] == expected).all(), f"{kind.name} pages of {key} are mapped wrongly"

    def _record(self, kind: RecordKind, payload: bytes) -> None:
        if not self.journal.has_room(len(payload)):
            self.restart_journal()
        self.journal.append(kind, payload)

    def _state(self) -> Iterator[tuple[RecordKind, bytes]]:
        yield RecordKind.WEAR, self.blocks.wear.astype("<u4").tobytes()
        yield RecordKind.OPENED, _numbers(self.blocks.programmed_blocks())
        for description in self.tasks.values():
            yield RecordKind.TASK, description
        sequences: dict[tuple[int, int], list[LayerKey]] = {}
        for key in self.tables.tokens:
            sequences.setdefault((key.task, key.sequence), []).append(key)
        for keys in sequences.values():
            tables = [self.tables.of(key, kind).all().reshape(-1) for key in keys for kind in MAPPED_KINDS]
            pages = np.concatenate(tables)
            records = np.empty(pages.size, PAGE_RECORD)
            records["address"], records["page"] = self._addresses[pages], pages
            records["crc"], records["seed"] = self.checksums[pages], self.seeds[pages]
            yield RecordKind.FLUSHED, records.tobytes()
        for key, order in self.orders.items():
            yield RecordKind.ORDER, _order_record(key, order)


def _addresses(key: LayerKey, kind: PageKind, heads: int, indices: Indices) -> Addresses:
    """[heads, n]."""
    head = np.arange(heads)[:, None]
    return ADDRESS.pack(task=key.task, sequence=key.sequence, layer=key.layer, kind=kind, head=head, page=indices)


def _order_record(key: LayerKey, order: Indices) -> bytes:
    return _numbers(np.concatenate([np.array(key), order.reshape(-1)]))


def _numbers(numbers: PageNumbers) -> bytes:
    return numbers.astype("<i8").tobytes()
