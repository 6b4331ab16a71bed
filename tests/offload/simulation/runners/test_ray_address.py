"""Addresses that are none, and addresses at which nobody, or somebody else, answers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from offload.simulation.runners import ray_address, ray_nodes
from offload.simulation.runners.ray_address import Found, answers, check_ray_address, find_ray
from offload.simulation.runners.ray_nodes import RayNode, node_of
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
    monkeypatch.setattr(ray_address, "nodes_here", list)
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
        assert answers(address)
    assert find_ray("local") == Found("local")


@pytest.mark.parametrize("answer", [b"", SETTINGS[:5], b"HTTP/1.1 400 Bad Request\r\n"])
def test_somebody_else_answers(answer: bytes) -> None:
    with server(answer) as address, pytest.raises(InvalidOptionError, match=f"--ray {address}: no Ray answers at"):
        find_ray(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "no-such-host.invalid:6379"])
def test_nobody_answers(address: str) -> None:
    with pytest.raises(InvalidOptionError, match="name the HOST:PORT that 'ray start --head' printed"):
        find_ray(address)


def test_the_cluster_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="--ray auto: no Ray runs here; start one with 'ray start --head'"):
        find_ray("auto")
    (tmp_path / "ray").mkdir()
    with server(SETTINGS) as address:
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        with pytest.raises(InvalidOptionError, match=f"no node of the cluster at {address} runs on this machine"):
            find_ray("auto")
    with pytest.raises(InvalidOptionError, match=f"--ray auto: no Ray answers at {address}"):
        find_ray("auto")  # it left its address behind
    with server(SETTINGS) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InvalidOptionError, match=f"start one with 'ray start --address={address}'"):
            find_ray("auto")


def node(head: str) -> RayNode:
    return RayNode(psutil.Process(), head, "token")


@pytest.mark.parametrize("asked", ["10.0.0.7:6379", "127.0.0.1:6379", "localhost:6379"])
def test_names_of_one_head(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setattr(ray_nodes, "_own_addresses", lambda: {"127.0.0.1", "10.0.0.7"})
    nodes = [node("10.0.0.7:6380"), node("10.0.0.7:6379")]
    assert node_of(asked, nodes) is nodes[1]
    assert node_of("10.0.0.8:6379", nodes) is None
    assert nodes[0].is_alive


def test_several_clusters_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "nodes_here", lambda: [node("10.0.0.7:1"), node("10.0.0.7:2")])
    with pytest.raises(InvalidOptionError, match=r"2 Ray clusters run here; name one of 10\.0\.0\.7:1, 10\.0\.0\.7:2"):
        find_ray("auto")


def test_what_runs_here_though_started_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head with a directory of its own leaves no note in the usual one."""
    with server(SETTINGS) as address:
        here = node(address)
        monkeypatch.setattr(ray_address, "nodes_here", lambda: [here])
        assert find_ray("auto") == Found(address, here)
