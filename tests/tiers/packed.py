"""A small packed store with random contents."""

import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiers.block import WeightGroupKey
from tiers.packed_store import PackedStore, PackedWriter
from tiers.packed_writer import Pieces
from tiers.tier import ALIGNMENT, align_up
from tiers.weight_tier import TensorSpec, WeightGroup

Contents = dict[str, NDArray[np.uint8]]


def make_groups(num_layers: int = 2) -> list[WeightGroup]:
    """Layers of 12 KiB, a head in two full slices and a short one, a rest."""
    layers = [
        WeightGroup(
            WeightGroupKey(f"layers.{i}"),
            "layer",
            (TensorSpec(f"{i}.a", "F32", (30, 70), 0), TensorSpec(f"{i}.b", "BF16", (25,), 8448)),
            3 * ALIGNMENT,
        )
        for i in range(num_layers)
    ]
    head = [
        WeightGroup(
            WeightGroupKey(f"head.{j}"), "head", (TensorSpec("head", "F16", (n, 150), 0),), align_up(n * 300), first
        )
        for j, (first, n) in enumerate([(0, 40), (40, 40), (80, 7)])
    ]
    rest = WeightGroup(WeightGroupKey("rest"), "rest", (TensorSpec("norm", "F32", (64,), 0),), ALIGNMENT)
    return [*layers, *head, rest]


def random_contents(groups: list[WeightGroup]) -> Contents:
    generator = np.random.default_rng(3)
    return {g.key.name: generator.integers(0, 256, g.nbytes, np.uint8) for g in groups}


def reader_of(contents: Contents, calls: list[str] | None = None) -> Callable[[WeightGroup, TensorSpec], Pieces]:
    """Serves each tensor from the bytes of its group, in two pieces."""

    def read(group: WeightGroup, spec: TensorSpec) -> Pieces:
        if calls is not None:
            calls.append(f"{group.key.name}/{spec.name}")
        data = contents[group.key.name][spec.offset : spec.offset + spec.nbytes]
        yield data[:7]
        yield data[7:]

    return read


def write_store(out: Path, groups: list[WeightGroup], contents: Contents, source: str = "s") -> None:
    with PackedWriter(out, groups, source=source) as writer:
        writer.write(reader_of(contents))


def assert_holds(store: PackedStore, contents: Contents) -> None:
    for slot, group in enumerate(store.groups):
        block = memoryview(mmap.mmap(-1, store.block_nbytes))
        store.read(slot, block)
        for spec in group.tensors:
            part = slice(spec.offset, spec.offset + spec.nbytes)
            assert bytes(block[part]) == contents[group.key.name][part].tobytes()
