"""The packed store as data: from weight groups to Zarr v3 metadata and back. No files are touched here.

See packed_store.py for the layout on disk.
"""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import google_crc32c

from tiers.block import ExpertKey, WeightGroupKey
from tiers.tier import ALIGNMENT
from tiers.weight_tier import DTYPE_NBYTES, STORED, GroupKind, TensorSpec, WeightGroup, WeightKey

FORMAT = 1
CHECKSUMS = "crc32c"
"""Name of the array with one checksum per block, in slot order."""

_BYTES_LE = {"name": "bytes", "configuration": {"endian": "little"}}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")
_EXPERT = re.compile(r"layers\.(\d+)\.experts\.(\d+)")


@dataclass(frozen=True, slots=True)
class PackedArray:
    """Groups that share one shard file: a layer, all its experts, or all slices of the head. One block per group."""

    name: str
    groups: tuple[WeightGroup, ...]

    @property
    def block_nbytes(self) -> int:
        """Bytes from one block to the next; the last slice of a head may fill less than that."""
        return max(group.nbytes for group in self.groups)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, without the index behind them."""
        return self.block_nbytes * len(self.groups)

    @property
    def shard_path(self) -> str:
        return f"{self.name}/c/0/0"


def arrays_of(groups: Sequence[WeightGroup]) -> tuple[PackedArray, ...]:
    """Slices of head and embedding share an array each, and so do a layer's experts, and their copies in a lower
    precision, which are smaller. Slots follow this order."""
    by_name: dict[str, list[WeightGroup]] = {}
    for group in groups:
        by_name.setdefault(_array_name(group), []).append(group)
    return tuple(PackedArray(name, tuple(members)) for name, members in by_name.items())


def _array_name(group: WeightGroup) -> str:
    if isinstance(group.key, ExpertKey):
        name = f"layers.{group.key.layer}.experts"
        return f"{name}.low" if group.kind == "low_expert" else name
    return group.kind if group.kind in ("head", "embedding") else group.key.name


def shard_index(array: PackedArray) -> bytes:
    """Offset and length of every block as little-endian uint64, then the CRC32C of that: what ends a Zarr shard."""
    stride = array.block_nbytes
    table = b"".join(struct.pack("<QQ", i * stride, stride) for i in range(len(array.groups)))
    return table + struct.pack("<I", google_crc32c.value(table))


def store_metadata(arrays: Sequence[PackedArray], source: str) -> dict[str, dict[str, Any]]:
    """The content of every ``zarr.json``, by the path of its node; the root is ``""`` and repeats all the others."""
    nodes = {array.name: _array_metadata(array) for array in arrays}
    nodes[CHECKSUMS] = _checksums_metadata(sum(len(array.groups) for array in arrays))
    offload = {"format": FORMAT, "source": source, "arrays": [array.name for array in arrays]}
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"offload": offload},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": nodes},
    }
    return {"": root, **nodes}


def parse_root(text: str) -> tuple[tuple[PackedArray, ...], str]:
    """The arrays in slot order and the source that they were packed from; ValueError says what is wrong."""
    try:
        root = json.loads(text)
        offload = root["attributes"]["offload"]
        found = offload["format"]
        if found != FORMAT:
            raise ValueError(f"format {found}, this version reads format {FORMAT}")
        nodes = root["consolidated_metadata"]["metadata"]
        arrays = tuple(_parse_array(name, nodes[name]) for name in offload["arrays"])
        source = str(offload["source"])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, OverflowError, RecursionError) as error:
        raise ValueError(f"metadata cannot be read ({type(error).__name__}: {error})") from None
    if not arrays:
        raise ValueError("no arrays are listed")
    return arrays, source


def plan_digest(arrays: Sequence[PackedArray]) -> int:
    """Changes when anything about names, shapes or places changes."""
    plan = json.dumps([[array.name, [_group_to_json(g) for g in array.groups]] for array in arrays])
    return int(google_crc32c.value(plan.encode()))


def _array_metadata(array: PackedArray) -> dict[str, Any]:
    count, stride = len(array.groups), array.block_nbytes
    sharding = {
        "chunk_shape": [1, stride],
        "codecs": [{"name": "bytes"}],
        "index_codecs": [_BYTES_LE, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [count, stride],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [count, stride]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["block", "byte"],
        "attributes": {"groups": [_group_to_json(group) for group in array.groups]},
    }


def _checksums_metadata(count: int) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [count],
        "data_type": "uint32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [count]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [_BYTES_LE],
        "dimension_names": ["slot"],
        "attributes": {},
    }


def _group_to_json(group: WeightGroup) -> dict[str, Any]:
    precision = {"precision": group.key.precision} if isinstance(group.key, ExpertKey) else {}
    return {
        "key": group.key.name,
        **precision,
        "kind": group.kind,
        "nbytes": group.nbytes,
        "first_row": group.first_row,
        "tensors": [asdict(spec) for spec in group.tensors],
    }


def _parse_array(name: str, node: Mapping[str, Any]) -> PackedArray:
    # The name becomes a path: one that climbs out of the store must not be followed.
    if not _NAME.fullmatch(name):
        raise ValueError(f"array name {name!r} is not allowed")
    array = PackedArray(name, tuple(_parse_group(group) for group in node["attributes"]["groups"]))
    if node["shape"] != [len(array.groups), array.block_nbytes]:
        raise ValueError(f"array {name} has shape {node['shape']}, its groups say {array.block_nbytes} bytes each")
    return array


def _parse_group(node: Mapping[str, Any]) -> WeightGroup:
    tensors = tuple(_parse_tensor(tensor) for tensor in node["tensors"])
    key = _parse_key(str(node["key"]), node["kind"], str(node.get("precision", STORED)))
    group = WeightGroup(key, node["kind"], tensors, int(node["nbytes"]), int(node["first_row"]))
    if group.kind not in get_args(GroupKind) or group.nbytes % ALIGNMENT or group.nbytes <= 0 or group.first_row < 0:
        raise ValueError(f"group {group.key.name} is not well formed")
    for spec in tensors:
        if spec.dtype not in DTYPE_NBYTES:
            raise ValueError(f"tensor {spec.name} has the unknown type {spec.dtype!r}")
        if spec.offset < 0 or min(spec.shape, default=1) < 0 or spec.offset + spec.nbytes > group.nbytes:
            raise ValueError(f"tensor {spec.name} lies outside its group")
    return group


def _parse_key(name: str, kind: str, precision: str) -> WeightKey:
    if kind not in ("expert", "low_expert"):
        return WeightGroupKey(name)
    match = _EXPERT.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} does not name an expert")
    return ExpertKey(int(match[1]), int(match[2]), precision)


def _parse_tensor(node: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(int(n) for n in node["shape"])
    return TensorSpec(str(node["name"]), str(node["dtype"]), shape, int(node["offset"]))
