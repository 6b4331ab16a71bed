"""The two ends of a queue in one process: what a drive does with what nobody expected, and messages in pieces."""

import json
import socket
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn, cast

import pytest

from tests.tiers.csd.kit import CONFIG, open_store, tokens, write
from tiers.csd import store as store_module
from tiers.csd.commands import Reclaim
from tiers.csd.device import Device
from tiers.csd.doorbell import Doorbell, PeerGoneError, PeerSilentError
from tiers.csd.failure import Status, rebuild
from tiers.csd.queue_memory import QueueMemory
from tiers.csd.wire import Opcode, Submission
from tiers.errors import DeviceGoneError, TransferError


def test_an_error_of_its_own_stops_the_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host hears of it, and nothing is executed with books that may be wrong."""
    ours, theirs = socket.socketpair()
    with (
        closing(open_store(tmp_path / "image")) as store,
        closing(QueueMemory.create(4, 1 << 20)) as queue,
        ours,
        theirs,
    ):
        store.configure(CONFIG)
        monkeypatch.setattr(store, "execute", lambda _: 1 / 0)
        host = Doorbell(ours)
        data = json.dumps(asdict(CONFIG)).encode()
        queue.data[: len(data)] = data
        queue.put_submission(0, Submission(Opcode.CONFIG, 0, 0, 0, 0, 0, 0, 0, len(data), 4096, 1 << 16))
        host.ring()
        with pytest.raises(ZeroDivisionError):
            Device(store, queue, Doorbell(theirs)).serve()
        assert host.hear(1.0) == b""
        completion = queue.completion(0)
        assert completion.status == Status.BROKEN
        error = rebuild(Status.BROKEN, json.loads(bytes(queue.data[4096 : 4096 + completion.reply_nbytes])))
        assert isinstance(error, DeviceGoneError)
        assert "an error of its own and stopped (ZeroDivisionError: division by zero)" in str(error)
        assert error.tier == "csd"


def test_messages_may_come_in_pieces() -> None:
    """A wait that ended too early goes on where it was."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host = Doorbell(ours)
        message = struct.pack("<I", 5) + b"hello"
        for byte in message[:-1]:
            theirs.send(bytes([byte]))
            with pytest.raises(PeerSilentError):
                host.hear(0.0)
        theirs.send(message[-1:] + struct.pack("<I", 0) * 2)
        assert [host.hear(1.0) for _ in range(3)] == [b"hello", b"", b""]
        theirs.close()
        with pytest.raises(PeerGoneError):
            host.hear(1.0)


class Silent:
    """A host that asks for nothing; ``recover`` is called in the third wait, and it goes in the sixth."""

    def __init__(self, recover: Callable[[], None]) -> None:
        self.waits_s: list[float] = []
        self._recover = recover

    def rings(self, timeout_s: float) -> int:
        self.waits_s.append(timeout_s)
        if len(self.waits_s) == 3:
            self._recover()
        if len(self.waits_s) == 6:
            raise PeerGoneError
        return 0


def test_what_failed_is_not_tried_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses the record of an erase; when it is well again, all that waits is done without a pause."""

    def refuse(offset: int, data: memoryview) -> NoReturn:
        raise TransferError("Input/output error", tier="csd")

    monkeypatch.setattr(store_module, "_BLOCKS_ERASED_AT_A_TIME", 1)
    with closing(open_store(tmp_path / "image")) as store, closing(QueueMemory.create(4, 1 << 20)) as queue:
        store.configure(CONFIG)
        store.write_kv(write(tokens(200), 0, 200))
        store.reclaim(Reclaim(CONFIG.task))
        write_image = store._image.file.write
        host = Silent(lambda: monkeypatch.setattr(store._image.file, "write", write_image))
        monkeypatch.setattr(store._image.file, "write", refuse)
        Device(store, queue, cast("Doorbell", host)).serve()
        assert host.waits_s == [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
        assert store.health().blocks_erased == 3
        store.check()
