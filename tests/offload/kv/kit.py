"""A store of tiny blocks over real tiers, and tokens that can be told apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from offload.kv.layout import KVLayout
from offload.kv.store import Interval, KVStore
from offload.kv.table import BlockTable
from prefetch.selection import KVSelector
from tiers.eviction.mru import MRUPolicy
from tiers.manager import Level, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.pool import BlockPool
from tiers.transfer import TransferEngine

BLOCK = 4
HEADS = 2
DIM = 4


@contextmanager
def open_store(
    device: int,
    *,
    host: int = 0,
    nvme_dir: Path | None = None,
    nvme: int = 0,
    layers: int = 1,
    lookahead: int = 2,
    block: int = BLOCK,
    selector: KVSelector | None = None,
    shape: tuple[int, int, int] = (HEADS, DIM, DIM),
) -> Iterator[KVStore]:
    """Levels of so many slots each; a drive wants blocks of whole pages, so ``block`` must be 64 there.

    ``shape`` is of what is cached of a token: heads, width of their keys, width of their values.
    """
    layout = KVLayout(block, *shape, "F32")
    arena = MemoryTier("device", device, layout.block_nbytes)
    tiers = [
        arena,
        *([MemoryTier("host", host, layout.block_nbytes)] if host else []),
        *([NVMeTier(nvme_dir, nvme, layout.block_nbytes)] if nvme_dir is not None else []),
    ]
    engine = TransferEngine()
    levels = [Level(tier, BlockPool(tier.num_slots), MRUPolicy(tier.num_slots)) for tier in tiers]
    manager = TieredMemoryManager(engine, levels)
    try:
        yield KVStore(layout, arena, manager, num_layers=layers, lookahead=lookahead, selector=selector)
    finally:
        engine.close()
        for tier in tiers:
            tier.close()


def used_slots(store: KVStore) -> list[int]:
    """Of each level, once its books have been found in order."""
    store.manager.check()
    return [level.pool.num_used for level in store.manager.levels]


def tokens(first: int, count: int) -> tuple[Tensor, Tensor]:
    """Keys and values [count, heads, dim]: token number ``first`` and those after it."""
    keys = torch.arange(first, first + count, dtype=torch.float32).reshape(-1, 1, 1).repeat(1, HEADS, DIM)
    return keys, -keys


def read(store: KVStore, table: BlockTable, begin: int, end: int, *, in_order: bool = True) -> list[int]:
    """The numbers of the tokens that a visit finds at positions ``begin .. end - 1``."""
    found: dict[int, int] = {}

    def visit(interval: Interval) -> None:
        keys, values = store.keys[interval.start : interval.stop], store.values[interval.start : interval.stop]
        assert torch.equal(keys, -values)
        numbers = [int(number) for number in keys[:, 0, 0]]
        if in_order:
            found.update(enumerate(numbers, interval.position))
        else:
            found.update(enumerate(numbers, len(found)))

    store.visit(*table.spans(begin, end), visit, in_order=in_order)
    numbers = [found[position] for position in sorted(found)]
    assert len(numbers) == end - begin
    return numbers if in_order else sorted(numbers)


def check(store: KVStore, table: BlockTable, expected: list[int], first: int = 0) -> None:
    """The tokens from position ``first`` on are those expected."""
    assert table.num_tokens == len(expected)
    if first < len(expected):
        assert read(store, table, first, len(expected)) == expected[first:]
