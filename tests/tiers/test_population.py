"""Memory that is there before it is used."""

import mmap
import threading
from pathlib import Path

import pytest

from tiers.memory_tier import map_memory
from tiers.population import Population


def resident_nbytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE


def test_finds_pages_and_changes_nothing() -> None:
    memory = map_memory("device", 40 * 2**20)
    memory[5] = 7
    before = resident_nbytes()
    population = Population(memoryview(memory))
    population.wait()
    assert resident_nbytes() - before > 30 * 2**20
    assert memory[:8] == bytes([0, 0, 0, 0, 0, 7, 0, 0])
    population.stop()


def test_lets_go_of_the_buffer_when_it_is_stopped() -> None:
    memory = map_memory("device", 64 * 2**20)
    buffer = memoryview(memory)
    population = Population(buffer)
    population.stop()
    population.stop()
    buffer.release()
    memory.close()


def test_nothing_to_populate(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    Population(memoryview(b"")).wait()
    assert not failures
