"""Tensors straight into the queue and out of it: as arrays would be, on the processor and on a CUDA device."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, cast

import numpy as np
import pytest
import torch

from tests.tiers.csd.kit import CONFIG, SMALL, attend, is_right, tokens, write
from tests.tiers.devices import on_every_device
from tests.tiers.kit import open_fds
from tiers.csd.commands import Attend, Reals, WriteKV
from tiers.csd.drive import ComputationalDrive
from tiers.csd.drive_array import DriveArray
from tiers.csd.host_codec import encode
from tiers.csd.queue_path import DevicePath, HostPath, as_array, on_device
from tiers.errors import InvalidOptionError, TokensLostError


@pytest.fixture
def memory() -> Iterator[memoryview]:
    with memoryview(bytearray(8192)) as memory:
        yield memory


def moved(command: Attend, device: str) -> Attend:
    """The command with tensors in place of its arrays."""
    assert command.keys is not None
    assert command.values is not None
    query, keys, values = (
        as_array(torch.from_numpy(part.copy()).to(device)) for part in (command.query, command.keys, command.values)
    )
    return replace(command, query=query, keys=keys, values=values)


@on_every_device
def test_an_array_and_tensors_lie_side_by_side(memory: memoryview, device: str) -> None:
    path = DevicePath(memory, device)
    head = np.arange(3, dtype=np.int64)
    first = torch.arange(6, dtype=torch.float32, device=device).reshape(2, 3).T  # not contiguous
    second = torch.full((5,), 0.5, dtype=torch.float16, device=device)
    parts = [head, as_array(first), as_array(second)]
    place = memory[64 : 64 + 24 + 24 + 10]
    path.put(parts, place)
    expected = head.tobytes() + first.cpu().contiguous().numpy().tobytes() + second.cpu().numpy().tobytes()
    assert bytes(place) == expected
    assert not any(memory[:64])
    taken = path.take(place)
    assert isinstance(taken, torch.Tensor)
    assert taken.device.type == device
    assert taken.cpu().numpy().tobytes() == expected
    path.close()
    path.close()


@on_every_device
def test_memory_is_locked_where_there_is_cuda(memory: memoryview, device: str) -> None:
    path = DevicePath(memory, device)
    is_pinned = torch.frombuffer(memory, dtype=torch.uint8).is_pinned() if device == "cuda" else False
    assert is_pinned == (device == "cuda")
    assert path.note == ("" if is_pinned else "the queue is not pinned: cpu is no CUDA device of this machine")
    path.close()


@on_every_device
@pytest.mark.parametrize("num_drives", [1, 2])
def test_answers_are_those_to_arrays(tmp_path: Path, device: str, num_drives: int) -> None:
    made = tokens(40)
    drives = [ComputationalDrive(tmp_path / f"{i}", SMALL, device=device) for i in range(num_drives)]
    with DriveArray(drives) as array:
        array.configure(CONFIG)
        written = write(made, 0, 20)
        keys, values = (as_array(torch.from_numpy(part.copy()).to(device)) for part in (written.keys, written.values))
        assert array.write_kv(WriteKV(CONFIG.task, 0, 0, 0, keys, values)).wait().num_tokens == 20
        for token in range(20, 40):
            found = array.attend(moved(attend(made, token), device)).wait()
            assert on_device(found.output)
            output = cast("torch.Tensor", found.output)
            assert output.device.type == device
            assert is_right(output[0].cpu().numpy(), made, token + 1)
        with pytest.raises(TokensLostError):  # said in JSON, which is for the host
            array.attend(replace(moved(attend(made, 39), device), starts=np.array([60]))).wait()


def test_arrays_alone_need_no_device(memory: memoryview) -> None:
    path = HostPath()
    first, second = np.arange(4, dtype=np.uint8), np.arange(3, dtype=np.float32)
    path.put([first, second], memory[:16])
    assert path.take(memory[:16]) == first.tobytes() + second.tobytes()


def test_an_answer_without_room_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its own command fails, and later answers are of the commands that asked for them."""
    made = tokens(23)
    with ComputationalDrive(tmp_path / "image", SMALL, device="cpu") as drive:
        drive.configure(CONFIG)
        drive.write_kv(write(made, 0, 20)).wait()
        pending = [drive.attend(moved(attend(made, token), "cpu")) for token in range(20, 22)]
        with monkeypatch.context() as patch:
            patch.setattr(drive._queue.path, "take", _no_room)
            with pytest.raises(torch.OutOfMemoryError):
                pending[0].wait()
        assert drive.inspect(CONFIG.task, 0).num_tokens == (22, 0)
        for token, answer in ((21, pending[1]), (22, drive.attend(moved(attend(made, 22), "cpu")))):
            output = cast("torch.Tensor", answer.wait().output)
            assert is_right(output[0].numpy(), made, token + 1)
        with pytest.raises(torch.OutOfMemoryError):
            pending[0].wait()


def _no_room(place: memoryview) -> torch.Tensor:
    raise torch.OutOfMemoryError("no room")


def test_tensors_of_another_type_are_refused() -> None:
    """Of the same number of bytes or not: they would be read as what they are not."""
    config, command = replace(CONFIG, dtype="float16"), attend(tokens(20), 19)
    as_asked = moved(replace(command, keys=_halves(command.keys), values=_halves(command.values)), "cpu")
    encode(as_asked, config)
    keys = cast("torch.Tensor", as_asked.keys).to(torch.bfloat16)
    with pytest.raises(InvalidOptionError, match=r"keys are torch\.bfloat16; the task of the drive takes torch\.flo"):
        encode(replace(as_asked, keys=as_array(keys)), config)
    with pytest.raises(InvalidOptionError, match=r"query are torch\.float32; .* takes torch\.float16: convert them"):
        encode(as_asked, replace(config, link_dtype="float16"))


def _halves(part: Reals | None) -> Reals:
    assert part is not None
    return part.astype(np.float16)


def test_a_command_that_could_not_be_put_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place in the queue is free again, so that later ones are put where they belong."""
    made = tokens(40)
    with ComputationalDrive(tmp_path / "image", SMALL, device="cpu") as drive:
        drive.configure(CONFIG)
        drive.write_kv(write(made, 0, 20)).wait()
        queue = drive._queue
        under_way = drive.attend(attend(made, 20))
        with monkeypatch.context() as patch:
            patch.setattr(queue.path, "put", _out_of_memory)
            with pytest.raises(MemoryError):
                drive.attend(attend(made, 21))
        assert is_right(under_way.wait().output[0], made, 21)
        assert is_right(drive.attend(attend(made, 21)).wait().output[0], made, 22)
        assert queue._arena.take(queue._arena.nbytes) == 0, "all of it is free"


def test_a_queue_that_cannot_be_locked_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiers.csd.host_queue.DevicePath", _out_of_memory)
    gc.collect()
    before = open_fds()
    with pytest.raises(MemoryError):
        ComputationalDrive(tmp_path / "image", SMALL, device="cpu")
    assert open_fds() <= before


def _out_of_memory(*_: object) -> NoReturn:
    raise MemoryError
