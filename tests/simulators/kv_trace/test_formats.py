"""Every format is read for what it says, and what is wrong with a file is said with the line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from simulators.kv_trace.base import KVTrace, Request
from simulators.kv_trace.formats import SAMPLES, find_trace, open_kv_trace, write_kv_trace
from tiers.errors import InvalidOptionError, TraceError


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def mooncake(timestamp: float, ids: list[int], **changes: Any) -> dict[str, Any]:
    return {"timestamp": timestamp, "input_length": 512 * len(ids), "output_length": 7, "hash_ids": ids, **changes}


def lookup(timestamp: float, hashes: list[str], **changes: Any) -> dict[str, Any]:
    record = {"timestamp": timestamp, "request_id": "r", "model_name": "m", "chunk_size": 256, "seq_len": 600}
    return {**record, "chunk_hashes": hashes, **changes}


def test_mooncake(tmp_path: Path) -> None:
    trace = open_kv_trace(write(tmp_path / "t", mooncake(1000, [4, 5]), mooncake(3500, [4, 6, 7])))
    assert (trace.format, trace.block_tokens) == ("mooncake", 512)
    assert list(trace.requests) == [Request(0.0, 1024, 7, [4, 5]), Request(2.5, 1536, 7, [4, 6, 7])]


def test_azure(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = ("2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,1025,0")
    path.write_text("\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *rows)), encoding="utf-8")
    first, second = open_kv_trace(path).requests
    assert first == Request(0.0, 374, 44, [0])
    assert second[1:] == (1025, 0, [1, 2, 3])
    assert second.arrival_s == pytest.approx(4.314579)


def test_lmcache(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", lookup(10.5, ["0xab", "0xcd"]), lookup(11.0, ["0xab", "0xef", "0xcd"]))
    trace = open_kv_trace(path)
    assert (trace.format, trace.block_tokens) == ("lmcache", 256)
    assert list(trace.requests) == [Request(0.0, 600, 0, [0, 1]), Request(0.5, 600, 0, [0, 2, 1])]


EVENTS = (
    {"type": "BlockStored", "block_hashes": [71, 72], "parent_block_hash": None, "token_ids": [], "block_size": 16},
    {"type": "BlockRemoved", "block_hashes": [72]},
    {"type": "BlockStored", "block_hashes": ["b"], "parent_block_hash": 71, "token_ids": [], "block_size": 16},
)
"""A prefix of two blocks; then another one, which shares the first of them."""


def as_arrays(time: float, *events: dict[str, Any]) -> list[Any]:
    return [time, [list(event.values()) for event in events], 0]


@pytest.mark.parametrize("arrays", [False, True])
def test_vllm_events(tmp_path: Path, arrays: bool) -> None:
    """A block that was stored behind another one is a use of that one too."""
    batches = ((5.0, EVENTS[:2]), (7.0, EVENTS[2:]), (6.0, [{"type": "AllBlocksCleared"}]))
    records = [as_arrays(t, *e) if arrays else {"ts": t, "events": list(e)} for t, e in batches]
    trace = open_kv_trace(write(tmp_path / "t", *records))
    assert (trace.format, trace.block_tokens) == ("vllm", 16)
    first, second = trace.requests
    assert first == Request(0.0, 32, 0, first.blocks)
    assert second == Request(2.0, 32, 0, [first.blocks[0], second.blocks[1]])
    assert len({*first.blocks, *second.blocks}) == 3


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_our_own_comes_back_as_it_was_written(tmp_path: Path, name: str) -> None:
    requests = [Request(0.0, 30, 4, [1, 2]), Request(0.25, 16, 0, [1])]
    path = tmp_path / name
    assert write_kv_trace(path, KVTrace("any", 16, iter(requests))) == 2
    trace = open_kv_trace(path)
    assert (trace.format, trace.block_tokens, list(trace.requests)) == ("offload", 16, requests)
    before = path.read_bytes()
    write_kv_trace(path, KVTrace("any", 16, iter(requests)))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_mooncake_comes_back_as_it_was_written(tmp_path: Path) -> None:
    requests = [Request(0.0, 1000, 4, [1, 2]), Request(0.25, 16, 0, [1])]
    write_kv_trace(tmp_path / "t", KVTrace("any", 512, iter(requests)), "mooncake")
    assert list(open_kv_trace(tmp_path / "t").requests) == requests
    with pytest.raises(InvalidOptionError, match="blocks of 16 tokens"):
        write_kv_trace(tmp_path / "t", KVTrace("any", 16, iter(requests)), "mooncake")
    with pytest.raises(InvalidOptionError, match="choose one of offload, mooncake"):
        write_kv_trace(tmp_path / "t", KVTrace("any", 512, iter(requests)), "parquet")
    assert list(open_kv_trace(tmp_path / "t").requests) == requests


def test_the_sample_is_found_by_its_name() -> None:
    assert find_trace(Path("mooncake_conversation")).parent == SAMPLES
    first = next(open_kv_trace(Path("mooncake_conversation")).requests)
    assert first == Request(0.0, 6758, 500, list(range(14)))
    with pytest.raises(TraceError, match="no such trace; did you mean 'mooncake_conversation'"):
        open_kv_trace(Path("moncake_conversation"))
    assert sum(file.stat().st_size for file in SAMPLES.iterdir()) < 300_000


HEADER = {"format": "offload-kv-trace-1", "block_tokens": 16}
STORED = {"arrival_s": 1, "input_tokens": 2, "output_tokens": 3, "blocks": [1]}
GOOD = mooncake(5, [1])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([GOOD, mooncake(4, [1])], ":2: came 0.001 s before the line above"),
        ([GOOD, mooncake(5, [1], hash_ids=[1, "2"])], ":2: 'hash_ids' is no list of whole numbers"),
        ([GOOD, mooncake(5, [1], hash_ids=[1, True])], ":2: 'hash_ids' is no list of whole numbers"),
        ([GOOD, mooncake(5, [7, 1, 7])], ":2: 'hash_ids' has 7 twice; give each block of a prompt an id of its own"),
        ([GOOD, mooncake(5, [1], output_length=-1)], ":2: 'output_length' is -1; it must be a whole number from 0 up"),
        ([GOOD, mooncake(5, [1], output_length=10**400)], ":2: 'output_length' is 1000"),
        ([GOOD, mooncake(5, [2**63])], ":2: 'hash_ids' has a number of more than 64 bits"),
        ([GOOD, {**GOOD, "timestamp": 10**400}], ":2: 'timestamp' is 1000"),
        ([[[9, 5], [1, 3]]], ":1: is of no known format"),
        ([GOOD, {**GOOD, "timestamp": None}], ":2: 'timestamp' is None; it must be a number from 0 up"),
        ([GOOD, {"hash_ids": [1]}], ":2: 'timestamp' is missing; the line has 'hash_ids'"),
        ([GOOD, [1]], ":2: is no JSON object"),
        ([{"what": 1}], ":1: is of no known format"),
        ([3], ":1: is of no known format"),
        ([{"format": "other"}], ":1: is of the format 'other'"),
        ([{**HEADER, "block_tokens": 0}], ":1: 'block_tokens' is 0; it must be a whole number from 1 up"),
        ([HEADER, STORED, {**STORED, "blocks": 3}], ":3: 'blocks' is no list"),
        ([HEADER, STORED, {**STORED, "blocks": [4, 4]}], ":3: 'blocks' has 4 twice"),
        ([lookup(1, ["a"]), lookup(1, ["a", "b", "b"])], ":2: 'chunk_hashes' has 'b' twice"),
        ([lookup(1, ["a"]), lookup(1, ["a"], chunk_size=16)], ":2: 'chunk_size' is 16 where it was 256"),
        ([lookup(1, ["a"]), lookup(1, ["a"], chunk_hashes=[[]])], ":2: 'chunk_hashes' is no list of hashes"),
        ([{"ts": 1, "events": [{"type": "Other"}]}], ":1: 'Other' is no event"),
        ([{"ts": 1, "events": [EVENTS[0], {**EVENTS[0], "block_size": 8}]}], ":1: 'block_size' is 8 where it was 16"),
        ([{"ts": 1, "events": [{**EVENTS[0], "block_hashes": None}]}], ":1: 'block_hashes' is no list of hashes"),
        ([{"ts": 1, "events": [{**EVENTS[0], "block_hashes": [71, 71]}]}], ":1: 'block_hashes' has 71 twice"),
        ([{"ts": 1, "events": []}, {"ts": 1}], ":2: is no batch of events"),
    ],
)
def test_what_is_wrong_is_said_with_the_line(tmp_path: Path, records: list[Any], message: str) -> None:
    path = write(tmp_path / "t", *records)
    with pytest.raises(TraceError) as error:
        list(open_kv_trace(path).requests)
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2023-11-16 18:15:46,374", "is not 'TIMESTAMP,"),
        ("noon,3,4", "is no time"),
        ("2023-11-16,3,-4", "is not 'TIME"),
    ],
)
def test_rows_that_are_wrong(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "t"
    path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{row}\n", encoding="utf-8")
    with pytest.raises(TraceError, match=f":2: .*{message}"):
        list(open_kv_trace(path).requests)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; name a trace"),
        (b"\n\n", "is empty; name a trace"),
        (b"{nonsense", r":1: is no JSON \(.*\): \{nonsense"),
        (b"[" * 100_000, ":1: is JSON within JSON, too deep"),
        (b'{"hash_ids": "\xff"}', ":1: is neither text in UTF-8 nor"),
        (gzip.compress(b'{"hash_ids": []}', mtime=0)[:-12], "is cut off or damaged"),
    ],
)
def test_files_that_are_no_traces(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(TraceError, match=message):
        open_kv_trace(tmp_path / "t")


def test_a_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="missing: no such trace"):
        open_kv_trace(tmp_path / "missing")
    with pytest.raises(TraceError, match="name a trace that can be read"):
        open_kv_trace(tmp_path)
    with pytest.raises(InvalidOptionError, match="cannot be written"):
        write_kv_trace(tmp_path / "no" / "t", KVTrace("any", 16, iter([])))


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    source = write(tmp_path / "bad", GOOD, {"hash_ids": [1]})
    with pytest.raises(TraceError, match=":2: 'timestamp' is missing"):
        write_kv_trace(tmp_path / "t", open_kv_trace(source))
    assert [file.name for file in tmp_path.iterdir()] == ["bad"]
