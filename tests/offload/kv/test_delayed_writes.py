"""Newest tokens in the host: the attention is that of all tokens, writes are few, and what was written is safe."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offload.attention.partial import attend_by_definition
from offload.kv.delayed_writes import InHost
from offload.kv.drive_rows import DriveRows, InDrives
from offload.kv.drives import KVDrives, NewestHolder
from offload.kv.host_room import HostRoom
from offload.kv.new_tokens import NewTokens
from offload.kv.newest_tokens import NewestTokens, newest_nbytes
from tests.tiers.csd.kit import CONFIG, SMALL, open_store
from tiers.csd.commands import Inspect, ReadKV
from tiers.csd.drive import ComputationalDrive
from tiers.csd.drive_array import DriveArray
from tiers.csd.wire import Opcode
from tiers.errors import DriveFullError

HEADS, KV_HEADS, DIM = CONFIG.kv_heads * CONFIG.heads_per_kv, CONFIG.kv_heads, CONFIG.head_dim
SCALE = 0.2
ENOUGH = HostRoom(1 << 20)


def tokens(batch: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [batch, heads, n, dim], keys and values [batch, kv_heads, n, dim]."""
    random = torch.Generator().manual_seed(seed)
    shapes = ((batch, HEADS, n, DIM), *((batch, KV_HEADS, n, DIM),) * 2)
    query, keys, values = (torch.randn(shape, generator=random) for shape in shapes)
    return query, keys, values


@contextmanager
def drives(tmp_path: Path, newest: NewestHolder) -> Iterator[KVDrives]:
    drive = ComputationalDrive(tmp_path / "image", SMALL)
    found = KVDrives(DriveArray([drive]), CONFIG, newest)
    try:
        yield found
    finally:
        found.close()


def step(rows: DriveRows, made: tuple[Tensor, Tensor, Tensor], token: int) -> float:
    """Append that token to every row of layer 0; the largest error of the answer."""
    query, keys, values = made
    found = rows.attend(0, query[:, :, token], NewTokens(keys[:, :, token], values[:, :, token]), SCALE)
    grouped = query[:, :, token].reshape(-1, KV_HEADS, HEADS // KV_HEADS, DIM)
    held = slice(token + 1)
    wanted, total = attend_by_definition(
        grouped, keys[:, :, held], values[:, :, held], SCALE, is_causal=False, mask=None
    )
    errors = found.output - wanted.reshape(found.output.shape), found.logsumexp - total.reshape(found.logsumexp.shape)
    return max(float(error.abs().max()) for error in errors)


@pytest.mark.parametrize("group_tokens", [1, 6, 16, 40])
def test_steps_from_an_empty_row(tmp_path: Path, group_tokens: int) -> None:
    made = tokens(2, 50)
    room = HostRoom(1 << 20)
    with drives(tmp_path, InHost(group_tokens, room)) as found:
        rows = found.new_rows()
        rows.open(0, *made[1:], None)
        assert max(step(rows, made, token) for token in range(50)) < 1e-5
        assert found.traffic()[Opcode.WRITE_KV].commands == 2 * (50 // group_tokens)
        for row in range(2):
            assert rows.num_tokens(0, row) == 50
            for part, whole in zip(rows.read(0, row), made[1:], strict=True):
                assert torch.equal(part, whole[row].transpose(0, 1))
        assert room.used_nbytes == 2 * 2 * KV_HEADS * group_tokens * DIM * 4
        rows.close()
        assert room.used_nbytes == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.lists(st.integers(0, 45), max_size=6))
def test_pieces_of_any_length_reach_the_drives_in_whole_groups(group_tokens: int, lengths: list[int]) -> None:
    """The arithmetic of ``write`` over a store that is a list."""
    _, keys, values = tokens(1, max(1, sum(lengths)))
    rows = InHost(group_tokens, HostRoom(1 << 20)).rows(_ListOfDrives())  # type: ignore[arg-type]
    rows.open(0, keys, values)
    done = 0
    for length in lengths:
        piece = slice(done, done + length)
        rows.write(0, 0, NewTokens(*(part[0, :, piece].transpose(0, 1) for part in (keys, values))))
        done += length
        assert rows.num_tokens(0, 0) == done
        assert rows._groups.num_tokens(0, 0) == done // group_tokens * group_tokens
        for part, whole in zip(rows.read(0, 0), (keys, values), strict=True):
            assert torch.equal(part, whole[0, :, :done].transpose(0, 1))


class _ListOfDrives:
    """What KVDrives does with the rows of one layer, without drives."""

    def __init__(self) -> None:
        self._written: list[tuple[Tensor, Tensor]] = []

    def check_shape(self, *shape: int) -> None:
        """Any shape."""

    def new_sequences(self, count: int) -> list[int]:
        return list(range(count))

    def write(self, layer: int, sequence: int, start: int, keys: Tensor, values: Tensor) -> None:
        assert start == sum(len(keys) for keys, _ in self._written)
        self._written.append((keys.clone(), values.clone()))

    def read(self, layer: int, sequence: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        keys, values = zip(*self._written, strict=True)
        return torch.cat(keys), torch.cat(values)


def test_without_room_tokens_travel_with_their_queries(tmp_path: Path) -> None:
    made = tokens(2, 20)
    with drives(tmp_path, InHost(16, HostRoom(1000))) as found:
        rows = found.new_rows()
        rows.open(0, *made[1:], None)
        assert max(step(rows, made, token) for token in range(20)) < 1e-5
        assert not found.traffic()[Opcode.WRITE_KV].commands
        assert found.newest.room.peak_nbytes == 0


def test_what_was_acknowledged_outlives_the_drive(tmp_path: Path) -> None:
    """The drive only ever has whole groups: none of its tokens is in its memory alone for long."""
    made = tokens(1, 60)
    drive = ComputationalDrive(tmp_path / "image", SMALL, keep=True)
    with closing(KVDrives(DriveArray([drive]), CONFIG, InHost(16, ENOUGH))) as found:
        rows = found.new_rows()
        rows.open(0, *made[1:], None)
        for token in range(60):
            step(rows, made, token)
        acknowledged = drive.inspect(CONFIG.task, 0).num_flushed[0]
        os.kill(drive.pid, signal.SIGKILL)
    assert acknowledged == 48
    store = open_store(tmp_path / "image")
    assert store.inspect(Inspect(CONFIG.task, 0)).num_flushed[0] == acknowledged
    kept = store.read_kv(ReadKV(CONFIG.task, 0, 0, 0, acknowledged))
    for part, whole in zip((kept.keys, kept.values), made[1:], strict=True):
        assert torch.equal(torch.from_numpy(part.copy()), whole[0, :, :acknowledged])
    store.close()


def test_a_cache_that_is_forgotten_gives_its_memory_back(tmp_path: Path) -> None:
    room = HostRoom(1 << 20)
    made = tokens(1, 3)
    with drives(tmp_path, InHost(16, room)) as found:
        rows = found.new_rows()
        rows.open(0, *made[1:], None)
        step(rows, made, 0)
        rows.abandon()
        assert room.used_nbytes == 0
        assert room.peak_nbytes


def test_drives_hold_the_newest_by_default(tmp_path: Path) -> None:
    made = tokens(1, 20)
    with drives(tmp_path, InDrives()) as found:
        rows = found.new_rows()
        rows.open(0, *made[1:], None)
        assert max(step(rows, made, token) for token in range(20)) < 1e-5


def test_writes_that_fail_are_told_to_their_own_rows(tmp_path: Path) -> None:
    made, few = tokens(12, 200), tokens(1, 22, seed=1)
    with drives(tmp_path, InDrives()) as found:
        before, large = found.new_rows(), found.new_rows()
        before.open(0, *few[1:], None)
        assert max(step(before, few, token) for token in range(20)) < 1e-5
        large.open(0, *made[1:], None)
        for row in range(12):  # more than the flash holds
            large.write(0, row, NewTokens(*(part[row].transpose(0, 1) for part in made[1:])))
        assert step(before, few, 20) < 1e-5
        for _ in range(2):
            with pytest.raises(DriveFullError):
                step(large, made, 199)
        large.close()
        after = found.new_rows()
        after.open(0, *few[1:], None)
        assert max(step(after, few, token) for token in range(22)) < 1e-5
        assert step(before, few, 21) < 1e-5
        found.finish_writes()


def test_what_there_is_no_room_for_is_not_made() -> None:
    """More memory than a machine has."""
    _, keys, values = tokens(1, 1)
    rows = InHost(1 << 50, HostRoom(1000)).rows(_ListOfDrives())  # type: ignore[arg-type]
    rows.open(0, keys, values)
    assert rows.num_tokens(0, 0) == 0


def test_newest_tokens_in_half_precision() -> None:
    _, keys, values = (part.bfloat16() for part in tokens(2, 1))
    newest = NewestTokens(8, keys, values)
    assert newest.nbytes == newest_nbytes(8, keys, values) == 2 * 2 * KV_HEADS * 8 * DIM * 2
    newest.append(1, NewTokens(keys[1].transpose(0, 1), values[1].transpose(0, 1)))
    found = newest.attend(tokens(2, 1)[0][:, :, 0].bfloat16(), SCALE)
    assert found.output.dtype == torch.float32
    assert found.logsumexp[0].tolist() == [-torch.inf] * HEADS
    assert torch.equal(found.output[1, 0], values[1, 0, 0].float())
