"""A head that was started apart, as users do, in a directory of its own."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from offload.simulation.runners.ray_nodes import nodes_here
from tests.offload.simulation.test_sweep import write
from tests.offload.test_cli import ENVIRONMENT, offload

COMMAND = ("simulate", "s.yaml", "--sweep", "--json")
LONG = {"kind": "zipf", "num_requests": 3000, "num_documents": 400, "document_blocks": 8, "seed": 3}


def processes(folder: str) -> list[psutil.Process]:
    """Those that were started for a head in ``folder``: its own and, of those, the ones below."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(folder in word for word in process.cmdline()):
                found += [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    return found


def running_cells(folder: str) -> list[psutil.Process]:
    found = []
    for process in processes(folder):
        try:
            if process.cmdline()[0].startswith("ray::run_cell"):
                found.append(process)
        except (psutil.Error, IndexError):
            continue
    return found


def kill(folder: str) -> None:
    for process in processes(folder):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


@pytest.fixture
def head() -> Iterator[tuple[str, int]]:
    """Its directory, whose name is short as sockets in it must have, and its port."""
    pytest.importorskip("ray")
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        start = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}", "--num-cpus=2"]
        start += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]
        try:
            subprocess.run(start, check=True, capture_output=True, timeout=60)
            yield folder, port
        finally:
            kill(folder)


@pytest.mark.slow
def test_it_is_lost_and_the_sweep_goes_on_later(tmp_path: Path, head: tuple[str, int]) -> None:
    """By 127.0.0.1, though it calls itself otherwise: a killed worker costs nothing, a killed head one clear line."""
    folder, port = head
    write(tmp_path, workload=LONG)
    arguments = [*COMMAND, "--ray", f"127.0.0.1:{port}", "--out", "out.json"]
    command = [sys.executable, "-m", "offload.cli", *arguments]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        workers: list[psutil.Process] = []
        while process.poll() is None and not workers:
            workers = running_cells(folder)
        workers[0].kill()
        while process.poll() is None and not (tmp_path / "out.json").exists():
            pass
        node = next(node for node in nodes_here() if node.head.endswith(f":{port}"))
        kill(folder)
        printed, complaints = process.communicate(timeout=60)
    assert (process.returncode, printed) == (1, "")
    assert complaints == (
        f"offload: --ray: the cluster at {node.head} is gone; start it again and run the same command again\n"
    )
    again = offload(*COMMAND, "--out", "out.json", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert (tmp_path / "out.json").read_text(encoding="utf-8") == again.stdout
    assert offload(*COMMAND, cwd=tmp_path).stdout == again.stdout


@pytest.mark.slow
def test_an_interrupt_leaves_no_cells_running(tmp_path: Path, head: tuple[str, int]) -> None:
    folder, port = head
    write(tmp_path, workload=LONG)
    command = [sys.executable, "-m", "offload.cli", *COMMAND, "--ray", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        workers: list[psutil.Process] = []
        while process.poll() is None and not workers:
            workers = running_cells(folder)
        process.send_signal(signal.SIGINT)
        printed, complaints = process.communicate(timeout=60)
    assert (process.returncode, printed, complaints) == (130, "", "offload: interrupted\n")
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
