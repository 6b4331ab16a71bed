import json
import mmap
import os
import stat
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore

from tests.tiers.devices import on_cuda
from tests.tiers.packed import Contents, assert_holds, make_groups, random_contents, write_store
from tiers.errors import CorruptBlockError, ModelError, TierError
from tiers.packed_format import arrays_of, parse_root, store_metadata
from tiers.packed_store import PackedStore, is_packed_store
from tiers.tier import ALIGNMENT, SupportsChecksum, SupportsDirectIO
from tiers.weight_tier import WeightGroup


@pytest.fixture
def groups() -> list[WeightGroup]:
    return make_groups()


@pytest.fixture
def contents(groups: list[WeightGroup]) -> Contents:
    return random_contents(groups)


@pytest.fixture
def out(tmp_path: Path, groups: list[WeightGroup], contents: Contents) -> Path:
    write_store(tmp_path / "store", groups, contents)
    return tmp_path / "store"


def test_round_trip(out: Path, groups: list[WeightGroup], contents: Contents) -> None:
    store = PackedStore(out)
    assert list(store.groups) == groups
    assert store.source == "s"
    assert is_packed_store(out)
    assert isinstance(store, SupportsDirectIO)
    assert isinstance(store, SupportsChecksum)
    assert_holds(store, contents)
    store.close()


def test_every_block_lies_on_a_page(out: Path) -> None:
    store = PackedStore(out)
    for slot in range(store.num_slots):
        for extent in store.extents(slot):
            assert extent.offset % ALIGNMENT == extent.nbytes % ALIGNMENT == 0
            assert extent.required == extent.nbytes
    store.close()


@pytest.mark.parametrize("by", ["zarr", pytest.param("kvikio", marks=on_cuda)])
def test_zarr_reads_the_same_bytes(out: Path, by: str) -> None:
    """An independent implementation of the format, which checks the index checksum of every shard itself."""
    kind = LocalStore if by == "zarr" else pytest.importorskip("kvikio.zarr").GDSStore
    store = PackedStore(out)
    root = zarr.open_group(kind(out, read_only=True), mode="r")
    assert sorted(root.array_keys()) == ["crc32c", "head", "layers.0", "layers.1", "rest"]
    checksums = np.asarray(root["crc32c"])
    slot = 0
    for array in arrays_of(store.groups):
        blocks = np.asarray(root[array.name])
        assert blocks.shape == (len(array.groups), array.block_nbytes)
        for row, group in zip(blocks, array.groups, strict=True):
            block = memoryview(mmap.mmap(-1, group.nbytes))
            store.read(slot, block)
            assert row[: group.nbytes].tobytes() == bytes(block)
            assert not row[group.nbytes :].any()
            assert google_crc32c.value(row[: group.nbytes].tobytes()) == checksums[slot]
            slot += 1
    assert root.attrs["offload"]["format"] == 1  # type: ignore[index, call-overload]
    store.close()


def test_rows(out: Path, contents: Contents) -> None:
    store = PackedStore(out)
    shard = (out / "head" / "c" / "0" / "0").read_bytes()
    for row, place in [(0, ("head.0", 0)), (39, ("head.0", 39)), (40, ("head.1", 0)), (86, ("head.2", 6))]:
        extent, inside = store.row_extent("head", row)
        found = shard[extent.offset + inside :][:300]
        assert found == contents[place[0]][place[1] * 300 :][:300].tobytes()
    store.close()


def test_is_private(out: Path) -> None:
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert stat.S_IMODE((out / "head" / "c" / "0" / "0").stat().st_mode) == 0o600


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    groups = make_groups(1)
    out = tmp_path_factory.mktemp("flip") / "store"
    write_store(out, groups, random_contents(groups))
    store = PackedStore(out)
    slot = data.draw(st.integers(0, store.num_slots - 1))
    bit = data.draw(st.integers(0, 8 * store.groups[slot].nbytes - 1))
    (extent,) = store.extents(slot)
    path = out / arrays_of(groups)[[0, 1, 1, 1, 2][slot]].shard_path
    with path.open("r+b") as file:
        file.seek(extent.offset + bit // 8)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ (1 << bit % 8)]))
    with pytest.raises(CorruptBlockError, match=store.groups[slot].key.name):
        store.read(slot, memoryview(mmap.mmap(-1, store.block_nbytes)))
    store.close()


def test_a_part_of_a_block_is_not_checked_and_none_is_written(out: Path) -> None:
    store = PackedStore(out)
    store.read(0, memoryview(bytearray(100)))
    with pytest.raises(TierError, match="read only"):
        store.seal(0, 0)
    store.close()


@pytest.mark.parametrize("change", [-1, 1, -ALIGNMENT])
def test_a_shard_of_another_size(out: Path, change: int) -> None:
    shard = out / "layers.1" / "c" / "0" / "0"
    os.truncate(shard, shard.stat().st_size + change)
    with pytest.raises(ModelError, match=r"layers\.1/c/0/0: .* bytes, .* expected; .*pack the model again"):
        PackedStore(out)


def test_an_edited_index(out: Path) -> None:
    shard = out / "rest" / "c" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelError, match="its index does not match"):
        PackedStore(out)


def test_lost_files(out: Path) -> None:
    (out / "layers.0" / "c" / "0" / "0").unlink()
    with pytest.raises(ModelError, match="No such file"):
        PackedStore(out)


@pytest.mark.parametrize("content", [None, b"1234"])
def test_lost_checksums(out: Path, content: bytes | None) -> None:
    (out / "crc32c" / "c" / "0").unlink()
    if content:
        (out / "crc32c" / "c" / "0").write_bytes(content)
    with pytest.raises(ModelError, match="crc32c"):
        PackedStore(out)


def test_no_store(tmp_path: Path) -> None:
    assert not is_packed_store(tmp_path)
    with pytest.raises(ModelError, match="no packed store here"):
        PackedStore(tmp_path)


def test_another_format_version(out: Path) -> None:
    root = json.loads((out / "zarr.json").read_text())
    root["attributes"]["offload"]["format"] = 2
    (out / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(ModelError, match="format 2, this version reads format 1"):
        PackedStore(out)


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_are_given_back(out: Path) -> None:
    """Also by an open that fails half way."""
    before = count_descriptors()
    store = PackedStore(out)
    assert count_descriptors() > before
    store.close()
    os.truncate(out / "rest" / "c" / "0" / "0", 5)
    with pytest.raises(ModelError):
        PackedStore(out)
    assert count_descriptors() == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
@settings(deadline=None)
def test_damaged_metadata_is_never_believed(data: st.DataObject) -> None:
    """Whatever stands in place of any value: a ValueError, or groups that lie within their blocks."""
    root = store_metadata(arrays_of(make_groups()), "s")[""]
    node: Any = root
    key: Any = data.draw(st.sampled_from(sorted(root)))
    while isinstance(node[key], (dict, list)) and node[key] and data.draw(st.booleans()):
        node = node[key]
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    node[key] = data.draw(JSON)
    try:
        arrays, _ = parse_root(json.dumps(root))
    except ValueError:
        return
    for array in arrays:
        assert "/" not in array.name
        assert all(0 <= s.offset <= s.offset + s.nbytes <= g.nbytes for g in array.groups for s in g.tensors)
