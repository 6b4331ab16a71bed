"""Directories as downloads, copies and git leave them, and the weights of a whole one read in place."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch

from offload.checkpoint.in_place import SafetensorsTier
from offload.checkpoint.safetensors_dir import SafetensorsDir
from offload.checkpoint.source import open_source
from tests.offload.checkpoints import assert_same_tensors, save_llama, stored_tensors, tensors_of
from tiers.errors import ModelError
from tiers.tier import ALIGNMENT, SupportsChecksum


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("single") / "model")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several files and an index; layers are cut by the ends of files."""
    path = save_llama(tmp_path_factory.mktemp("sharded") / "model", max_shard_size="100KB")
    assert len(list(path.glob("*.safetensors"))) > 3
    return path


@pytest.fixture
def copy(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "copy"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", ["5GB", "100KB"])
@pytest.mark.parametrize("tied", [True, False])
def test_in_place_serves_what_is_stored(tmp_path: Path, dtype: torch.dtype, shards: str, *, tied: bool) -> None:
    path = save_llama(tmp_path / "model", dtype=dtype, max_shard_size=shards, tied=tied)
    tier = SafetensorsTier(path)
    assert_same_tensors(tensors_of(tier), stored_tensors(path))
    tier.close()


def test_groups_in_place(single: Path) -> None:
    tier = SafetensorsTier(single)
    kinds = [group.kind for group in tier.groups]
    assert kinds == ["layer"] * 3 + ["head"] * kinds.count("head") + ["embedding"] * kinds.count("embedding") + ["rest"]
    assert [group.key.name for group in tier.groups[:4]] == ["layers.0", "layers.1", "layers.2", "head.0"]
    assert tier.groups[-1].tensors[0].name == "model.norm.weight"
    assert len(tier.groups[0].tensors) == 9
    assert not isinstance(tier, SupportsChecksum)
    tier.close()


def test_slices_fit_in_the_slot_of_a_layer(tmp_path: Path) -> None:
    """With a vocabulary much larger than a layer, and rows that do not divide a page."""
    tier = SafetensorsTier(save_llama(tmp_path / "model", vocab_size=5001, hidden_size=40))
    slices = [group for group in tier.groups if group.kind in ("head", "embedding")]
    largest = max(group.nbytes for group in tier.groups if group.kind == "layer")
    assert len(slices) > 10
    assert tier.block_nbytes == largest
    for kind in ("head", "embedding"):
        rows = [(group.first_row, group.tensors[0].shape[0]) for group in slices if group.kind == kind]
        assert [first for first, _ in rows] == [sum(count for _, count in rows[:i]) for i in range(len(rows))]
        assert sum(count for _, count in rows) == 5001
    tier.close()


def test_extents_are_whole_pages(sharded: Path) -> None:
    tier = SafetensorsTier(sharded)
    for slot, group in enumerate(tier.groups):
        extents = tier.extents(slot)
        assert sum(extent.nbytes for extent in extents) == group.nbytes
        for extent in extents:
            assert extent.offset % ALIGNMENT == extent.nbytes % ALIGNMENT == 0
            assert extent.required == min(extent.nbytes, os.fstat(extent.fd).st_size - extent.offset)
    tier.close()


@pytest.mark.parametrize("row", [0, 1, 150, 299])
def test_single_rows(sharded: Path, row: int) -> None:
    tier = SafetensorsTier(sharded)
    extent, inside = tier.row_extent("model.embed_tokens.weight", row)
    block = memoryview(bytearray(extent.nbytes))
    with Path(f"/proc/self/fd/{extent.fd}").open("rb") as file:
        file.seek(extent.offset)
        file.readinto(block)
    expected = stored_tensors(sharded)["model.embed_tokens.weight"][row]
    assert bytes(block[inside : inside + 256]) == expected.numpy().tobytes()
    tier.close()


def test_open_source_takes_a_directory_in_place(single: Path, tmp_path: Path) -> None:
    tier = open_source(single)
    assert isinstance(tier, SafetensorsTier)
    tier.close()
    with pytest.raises(ModelError, match="offload pack"):
        open_source(tmp_path / "some.gguf")
    with pytest.raises(ModelError, match="no such directory"):
        open_source(tmp_path / "nothing")


def test_a_tensor_at_an_odd_offset_has_to_be_packed(tmp_path: Path) -> None:
    """The format allows it; a float tensor that is not aligned cannot be used where it lies."""
    path = save_llama(tmp_path / "model")
    raw = (path / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    data = raw[8 + struct.unpack("<Q", raw[:8])[0] :]
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 4 + 4)
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    with pytest.raises(ModelError, match="offload pack"):
        SafetensorsTier(path)
    SafetensorsDir(path).close()


def test_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="empty; download"):
        SafetensorsDir(tmp_path)


def test_no_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        SafetensorsDir(copy)


def test_directory_around_a_gguf(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"give the file .*m\.gguf itself"):
        SafetensorsDir(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_damaged_config(copy: Path, content: str) -> None:
    (copy / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json: "):
        SafetensorsDir(copy)


def test_missing_shard(copy: Path) -> None:
    sorted(copy.glob("*.safetensors"))[1].unlink()
    (copy / ".cache/huggingface/download").mkdir(parents=True)
    (copy / ".cache/huggingface/download/abc.incomplete").touch()
    with pytest.raises(ModelError, match=r"1 of \d+ weight files .*model-00002-of-.*resume .*abc\.incomplete"):
        SafetensorsDir(copy)


def test_missing_index(copy: Path) -> None:
    (copy / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor"):
        SafetensorsDir(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "cannot be read"),
        (json.dumps({"weight_map": {"a": "../model.safetensors"}}), "outside the model directory"),
        (json.dumps({"weight_map": {"a": "first.safetensors"}}), "which the index promises"),
    ],
)
def test_damaged_index(copy: Path, content: str, message: str) -> None:
    min(copy.glob("*.safetensors")).rename(copy / "first.safetensors")
    (copy / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        SafetensorsDir(copy)


def test_only_pickles(copy: Path) -> None:
    for file in copy.glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        SafetensorsDir(copy)
    (copy / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"only pytorch_model\.bin; save it as safetensors"):
        SafetensorsDir(copy)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_file(copy: Path, keep: int) -> None:
    file = min(copy.glob("*.safetensors"))
    os.truncate(file, keep if keep >= 0 else file.stat().st_size - 1)
    with pytest.raises(ModelError, match=rf"{file.name}: .*download it again"):
        SafetensorsDir(copy)


def test_lfs_pointer(copy: Path) -> None:
    file = min(copy.glob("*.safetensors"))
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 4096\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        SafetensorsDir(copy)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
        b"\xff\xff",
    ],
)
def test_damaged_header(single: Path, tmp_path: Path, header: bytes) -> None:
    path = Path(shutil.copytree(single, tmp_path / "copy"))
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ModelError, match=r"model\.safetensors: unreadable header"):
        SafetensorsDir(path)


def test_fingerprint_follows_the_files(copy: Path) -> None:
    before = SafetensorsDir(copy).fingerprint
    assert SafetensorsDir(copy).fingerprint == before
    file = min(copy.glob("*.safetensors"))
    os.utime(file, ns=(0, 0))
    assert SafetensorsDir(copy).fingerprint != before
