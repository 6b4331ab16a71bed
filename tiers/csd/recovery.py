"""How a drive comes back: from the journal, then by reading every page that the journal names.

Nothing that was only in the drive's memory is there any more, and of what was being flushed either all or nothing. A
layer of a sequence then holds the tokens of its whole groups, up to the first page of any head that does not bear its
checksum; the rest is lost and is reported so: by ``Recovered``, and by TokensLostError to a host that goes on as if
nothing had happened. Summaries in flash are not taken over but made again from the groups; their pages are dead.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiers.csd.address import ADDRESS
from tiers.csd.chain import which_are_sound
from tiers.csd.ftl import FlashTranslation, PageRecords
from tiers.csd.geometry import PageNumbers
from tiers.csd.journal import PAGE_RECORD, RecordKind
from tiers.csd.page_table import RECOVERED_KINDS, LayerKey
from tiers.csd.pages import KVShape, PageKind

_PAGES_AT_A_TIME = 4096

ReadTask = Callable[[bytes], tuple[int, KVShape]]
"""The number of a task and the shape of its layers, from what was recorded of it."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found. ``num_lost_pages`` were recorded but are damaged, or stand behind a damaged one."""

    layers: tuple[LayerKey, ...] = ()
    num_pages: int = 0
    num_lost_pages: int = 0


def recover(flash: FlashTranslation, read_task: ReadTask) -> Recovered:
    """Fill a new ``flash`` from its image, and start a new journal area with what was found. Raises TransferError."""
    geometry = flash.image.geometry
    wear = np.zeros(geometry.num_blocks, np.uint32)
    programmed = np.zeros(geometry.num_blocks, np.bool_)
    shapes: dict[int, KVShape] = {}
    sequences: dict[tuple[int, int], list[PageRecords]] = {}
    orders: dict[LayerKey, PageNumbers] = {}
    for record in flash.journal.replay():
        match record.kind:
            case RecordKind.WEAR:
                wear[:] = np.frombuffer(record.payload, "<u4")
            case RecordKind.OPENED:
                programmed[record.numbers()] = True
            case RecordKind.TASK:
                task, shapes[task] = read_task(record.payload)
                flash.tasks[task] = record.payload
            case RecordKind.FLUSHED if record.payload:
                pages = np.frombuffer(record.payload, PAGE_RECORD)
                sequences.setdefault(_sequence_of(pages), []).append(pages)
            case RecordKind.FINISHED:
                _forget(record.numbers().reshape(-1, 2).tolist(), sequences, orders)
            case RecordKind.ORDER:
                numbers = record.numbers()
                orders[LayerKey(*numbers[:3].tolist())] = numbers[3:]
            case RecordKind.ERASED:
                blocks = record.numbers()
                programmed[blocks] = False
                wear[blocks] += 1
            case _:
                pass
    flash.blocks.restore(wear=wear, programmed=programmed)
    num_recorded = 0
    for (task, sequence), parts in sequences.items():
        records = np.concatenate(parts)
        records = records[ADDRESS.unpack(records["address"])["kind"] != PageKind.SUMMARY]
        num_recorded += records.size
        _adopt(flash, task, sequence, shapes[task], records)
    flash.blocks.note_dead_blocks()
    # Layers of which nothing was sound start anew, and learn anew.
    flash.orders = {
        key: order.reshape(shapes[key.task].kv_heads, -1) for key, order in orders.items() if key in flash.tables.tokens
    }
    flash.restart_journal()
    num_pages = flash.blocks.num_valid
    return Recovered(tuple(flash.tables.tokens), num_pages, num_recorded - num_pages)


def _forget(
    finished: list[list[int]],
    sequences: dict[tuple[int, int], list[PageRecords]],
    orders: dict[LayerKey, PageNumbers],
) -> None:
    """Take out what was recorded of finished sequences, [task, sequence] each."""
    for task, sequence in finished:
        sequences.pop((task, sequence), None)
        for key in [key for key in orders if key[:2] == (task, sequence)]:
            del orders[key]


def _sequence_of(records: PageRecords) -> tuple[int, int]:
    """Task and sequence; those of all pages of a record are the same."""
    task, sequence, _ = ADDRESS.layer_at(int(records["address"][0]))
    return task, sequence


def _adopt(flash: FlashTranslation, task: int, sequence: int, shape: KVShape, records: PageRecords) -> None:
    """Map what is sound of one sequence."""
    pages = records["page"].astype(np.int64)
    is_sound = np.empty(pages.size, np.bool_)
    for start in range(0, pages.size, _PAGES_AT_A_TIME):
        part = slice(start, start + _PAGES_AT_A_TIME)
        data = flash.image.read(pages[part])
        is_sound[part] = which_are_sound(data, records["seed"][part], records["crc"][part])
    fields = ADDRESS.unpack(records["address"])
    layers, kinds, heads = fields["layer"], fields["kind"], fields["head"]
    # By what they hold, so that the pages of one kind of one head follow each other.
    order = np.lexsort((fields["page"], heads, kinds, layers))
    for layer in np.unique(layers).tolist():
        mine = order[layers[order] == layer]
        rows = {
            (kind, head): _prefix(part[heads[part] == head], fields["page"], is_sound)
            for kind in RECOVERED_KINDS
            for part in [mine[kinds[mine] == kind]]
            for head in range(shape.kv_heads)
        }
        lengths = {kind: min(rows[kind, head].size for head in range(shape.kv_heads)) for kind in RECOVERED_KINDS}
        groups = min(lengths[PageKind.KEY_GROUP], lengths[PageKind.VALUE_GROUP])
        spans = min(
            lengths[PageKind.KEY_CHANNELS] // shape.pages_per_span,
            groups * shape.tokens_per_group // shape.tokens_per_span,
        )
        if not groups:
            continue
        key = LayerKey(task, sequence, layer)
        flash.add_layer(key, shape)
        for kind in RECOVERED_KINDS:
            n = spans * shape.pages_per_span if kind is PageKind.KEY_CHANNELS else groups
            kept = np.stack([rows[kind, head][:n] for head in range(shape.kv_heads)])
            flash.adopt(records[kept.reshape(-1)])
            flash.tables.of(key, kind).extend(pages[kept])


def _prefix(positions: PageNumbers, page: PageNumbers, is_sound: NDArray[np.bool_]) -> PageNumbers:
    """Those of the sorted records of one head that are sound and leave no gap, from page 0."""
    in_order = (page[positions] == np.arange(positions.size)) & is_sound[positions]
    return positions[: positions.size if in_order.all() else int(in_order.argmin())]
