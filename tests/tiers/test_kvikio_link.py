"""Reads by kvikio straight into a device: what arrives, and that checksums are compared there too."""

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from tests.tiers.devices import CUDA, bytes_of, device_tier, holds
from tests.tiers.kit import content
from tests.tiers.kvikio_standin import standin
from tests.tiers.watched import BLOCK, NUM_SLOTS, PAGE, load
from tiers.errors import CorruptBlockError, TransferError
from tiers.gds import find_gds
from tiers.kvikio_settings import KvikioSettings
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.transfer import Move, Priority, TransferConfig, TransferEngine

BY_KVIKIO = TransferConfig(queue_depth=4, chunk_nbytes=2 * PAGE, files_to_device="kvikio")


def test_says_what_it_finds() -> None:
    """And asks once only: a driver that is broken may take its time."""
    found = find_gds()
    assert found.works or not found.is_real
    assert "\n" not in found.note
    if find_spec("kvikio") is None or not torch.cuda.is_available():
        assert not found.works
    assert find_gds() is found


def test_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvikio", None)
    found = find_gds.__wrapped__()
    assert (found.works, found.is_real) == (False, False)
    assert found.note == "kvikio does not work here: it is not installed"


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The processor with a stand-in for kvikio, and a GPU with the real one."""
    if request.param == "cpu":
        with standin(monkeypatch):
            yield "cpu"
    else:
        pytest.importorskip("kvikio")
        yield "cuda"


def test_moves_blocks(nvme: NVMeTier, device: str) -> None:
    there = device_tier(device)
    with closing(TransferEngine(BY_KVIKIO)) as engine:
        loads = [load(engine, nvme, there, [slot, slot + 1], Priority.PREFETCH) for slot in range(0, NUM_SLOTS, 2)]
        for transfer in reversed(loads):
            engine.wait(transfer)
        assert holds(there, {slot: slot for slot in range(NUM_SLOTS)})
        engine.wait(engine.submit(there, nvme, [Move(3, 4)], Priority.WRITE_BACK))
        engine.wait(engine.submit(nvme, there, [Move(4, 0)], Priority.DEMAND))
    assert bytes_of(there, 0) == content(3, BLOCK)


def test_a_wrong_bit_is_an_error(nvme: NVMeTier, device: str) -> None:
    there, host = device_tier(device), MemoryTier("host", 1, BLOCK)
    with closing(TransferEngine(BY_KVIKIO)) as engine:
        engine.wait(engine.submit(host, nvme, [Move(0, 7)], Priority.WRITE_BACK))
        nvme.seal(7, 4711)
        with pytest.raises(CorruptBlockError, match="slot 7 of"):
            engine.wait(load(engine, nvme, there, [6, 7], Priority.DEMAND))
        engine.wait(load(engine, nvme, there, [6], Priority.DEMAND))
    assert bytes_of(there, 6) == content(6, BLOCK)


def test_a_file_that_shrank_is_an_error(nvme: NVMeTier, device: str) -> None:
    there = device_tier(device)
    os.ftruncate(nvme.extents(0)[0].fd, 3 * BLOCK)
    with closing(TransferEngine(BY_KVIKIO)) as engine:
        with pytest.raises(TransferError):
            engine.wait(load(engine, nvme, there, [5], Priority.DEMAND))
        engine.wait(load(engine, nvme, there, [2], Priority.DEMAND))
    assert bytes_of(there, 2) == content(2, BLOCK)


@pytest.mark.parametrize("knows_o_direct", [True, False])
def test_kvikio_is_told_what_was_measured(
    nvme: NVMeTier, monkeypatch: pytest.MonkeyPatch, knows_o_direct: bool
) -> None:
    """Releases before 25.12 cannot be told of O_DIRECT."""
    measured = KvikioSettings(num_threads=6, task_nbytes=8192, is_direct=False)
    with (
        standin(monkeypatch, knows_o_direct=knows_o_direct) as settings,
        closing(TransferEngine(replace(BY_KVIKIO, kvikio=measured))) as engine,
    ):
        engine.wait(load(engine, nvme, device_tier("cpu"), [1], Priority.DEMAND))
        assert engine.notes[0] == "nvme->device: a stand-in"
    told = {"num_threads": 6, "task_size": 8192}
    assert settings == (told | {"auto_direct_io_read": False} if knows_o_direct else told)


def test_a_request_that_cannot_be_started_waits_for_what_of_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else kvikio would write to a slot that is already somebody else's."""
    from tiers.io_queue import IORequest
    from tiers.kvikio_queue import KvikioQueue

    with standin(monkeypatch), open("/dev/zero", "rb") as file:  # noqa: PTH123
        queue = KvikioQueue(2, KvikioSettings())
        good = torch.ones(8, dtype=torch.uint8)
        begun: list[object] = []
        opened = queue._open(file.fileno())
        pread = opened.pread

        def one_only(buffer: torch.Tensor, *given: int) -> object:
            if begun:
                raise RuntimeError("no more")
            begun.append(pread(buffer, *given))
            return begun[0]

        monkeypatch.setattr(opened, "pread", one_only)
        buffers: Any = (good, torch.ones(8, dtype=torch.uint8))
        queue.submit([IORequest(1, file.fileno(), 0, buffers, is_write=False)])
        assert not good.any(), "it has ended before the error is told"
        (completion,) = queue.reap()
        assert (completion.tag, str(completion.error)) == (1, "[Errno 5] no more")
        queue.close()
