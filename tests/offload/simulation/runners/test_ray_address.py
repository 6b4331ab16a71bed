"""Addresses that are none, and addresses at which nobody, or somebody else, answers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from offload.simulation.runners.ray_address import check_ray_address, reachable
from tiers.errors import InvalidOptionError

SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Answers the first caller and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(3, socket.MSG_WAITALL) == b"PRI"
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


@pytest.fixture(autouse=True)
def no_ray_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.mark.parametrize("address", ["auto", "local", "head:6379", "10.0.0.1:6379", "[::1]:6379"])
def test_addresses(address: str) -> None:
    check_ray_address("--ray", address)


@pytest.mark.parametrize("address", ["", "head", "6379", "head:", "ray://head:10001", "head:port", "a b:1", "h:123456"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidOptionError, match=r"--ray: .* is no address; write auto, local, or HOST:PORT"):
        check_ray_address("--ray", address)


def test_somebody_answers() -> None:
    with server(SETTINGS) as address:
        assert reachable(address) == address
    assert reachable("local") == "local"


@pytest.mark.parametrize("answer", [b"", SETTINGS[:5], b"HTTP/1.1 400 Bad Request\r\n"])
def test_somebody_else_answers(answer: bytes) -> None:
    with server(answer) as address, pytest.raises(InvalidOptionError, match=f"--ray {address}: no Ray answers at"):
        reachable(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "no-such-host.invalid:6379"])
def test_nobody_answers(address: str) -> None:
    with pytest.raises(InvalidOptionError, match="name the HOST:PORT that 'ray start --head' printed"):
        reachable(address)


def test_the_cluster_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="--ray auto: no Ray runs here; start one with 'ray start --head'"):
        reachable("auto")
    (tmp_path / "ray").mkdir()
    with server(SETTINGS) as address:
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert reachable("auto") == address
    with pytest.raises(InvalidOptionError, match=f"--ray auto: no Ray answers at {address}"):
        reachable("auto")  # it left its address behind
    with server(SETTINGS) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert reachable("auto") == address
