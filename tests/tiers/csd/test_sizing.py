"""What a task is said to take is what it takes."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiers.csd.kit import CONFIG, SMALL, open_store, tokens, write
from tiers.csd.commands import Config
from tiers.csd.sizing import drive_for, flash_nbytes, memory_nbytes
from tiers.errors import DriveFullError


@pytest.mark.parametrize("key_copies", [1, 2])
def test_a_drive_that_is_large_enough_is(tmp_path: Path, key_copies: int) -> None:
    config = replace(CONFIG, key_copies=key_copies)
    geometry = drive_for(config, SMALL, sequences=3, tokens=200)
    assert geometry.capacity_nbytes == flash_nbytes(config, SMALL, sequences=3, tokens=200)
    made = tokens(200)
    with closing(open_store(tmp_path / "image", geometry)) as store:
        store.configure(config)
        for sequence in range(3):
            for layer in range(2):
                store.write_kv(write(made, 0, 200, sequence=sequence, layer=layer))
        health = store.health()
        assert memory_nbytes(config, geometry, sequences=3) <= health.memory_used_nbytes <= health.memory_nbytes
        with pytest.raises(DriveFullError):
            store.write_kv(write(made, 0, 200, sequence=3))


def test_figures_of_the_paper() -> None:
    """OPT-13B, 64 sequences of 1,024 tokens: 1.342 GB a layer is written in prefill, half as much again with two K."""
    opt = Config(0, 1, 40, 1, 128, max_tokens=2048, key_copies=1)
    drive = replace(SMALL, dram_nbytes=1 << 30)
    assert flash_nbytes(opt, drive, sequences=64, tokens=1024) == pytest.approx(1.342e9, rel=1e-3)
    twice = flash_nbytes(replace(opt, key_copies=2), drive, sequences=64, tokens=1024)
    assert twice == pytest.approx(1.5 * 1.342e9, rel=1e-3)
