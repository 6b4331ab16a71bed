"""Summaries of groups that do not fit into the drive's memory: in pages, which are counted; the same answers."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from numpy import array_equal

from tests.tiers.csd.kit import CONFIG, attend, open_store, tokens, write
from tests.tiers.csd.test_store import ROOMY
from tiers.csd.commands import Inspect, Reals, Reclaim
from tiers.csd.store import DriveStore
from tiers.errors import DriveFullError

SPARSE = replace(CONFIG, engine="group_mass", engine_options={"groups": 0.25}, key_copies=1, num_layers=1)
"""Three vectors of each group of 16 tokens: a page of each head holds those of five groups."""
SHORT = replace(ROOMY, dram_nbytes=ROOMY.table_nbytes + 48_000)
"""Two sequences have buffers of 33 KiB, which leaves 14 KiB: summaries of nine groups."""
MADE = [tokens(700, seed=seed) for seed in range(2)]


def live(store: DriveStore, last: int) -> list[Reals]:
    """Two sequences, written and decoded in turns, from where they are."""
    outputs = []
    for sequence, made in enumerate(MADE):
        held = store.inspect(Inspect(1, sequence)).num_tokens[0]
        for first in range(held, last - 60, 40):
            store.write_kv(write(made, first, min(first + 40, last - 60), sequence=sequence))
    for token in range(last - 60, last):
        for sequence, made in enumerate(MADE):
            outputs.append(store.attend(attend(made, token, sequence=sequence)).output)
        if token % 3:
            store.work()
    store.check()
    return outputs


def test_the_same_answers_in_less_memory(tmp_path: Path) -> None:
    found = {}
    for name, geometry in (("roomy", ROOMY), ("short", SHORT)):
        with closing(open_store(tmp_path / name, geometry, traces=True)) as store:
            store.configure(SPARSE)
            found[name] = live(store, 500)
            health = store.health()
            phases = store.trace().phases
            if name == "roomy":
                assert not health.summary_pages
                assert "summaries" not in phases
            else:
                # Of 2 x 31 groups all but nine at most are in pages, two heads each.
                assert 2 * 2 * 5 <= health.summary_pages <= 2 * 2 * 6
                assert health.memory_used_nbytes <= SHORT.dram_nbytes
                assert phases["summaries"].size > 60 * health.summary_pages / 2
            store.reclaim(Reclaim(1))
            assert store.health().memory_used_nbytes == geometry.table_nbytes
            assert not store.health().summary_pages
            store.check()
    for ours, theirs in zip(found["short"], found["roomy"], strict=True):
        assert array_equal(ours, theirs)


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_they_are_made_again_when_the_drive_comes_back(tmp_path: Path, how: str) -> None:
    """From the groups; the pages that they had are dead, and none counts as lost."""
    store = open_store(tmp_path / "short", SHORT)
    store.configure(SPARSE)
    live(store, 400)
    spilled = store.health().summary_pages
    assert spilled
    if how == "closed":
        store.close()
    else:
        store._image.close()
    with (
        closing(open_store(tmp_path / "short", SHORT)) as again,
        closing(open_store(tmp_path / "roomy", ROOMY)) as roomy,
    ):
        assert again.health().lost_pages == 0
        assert again.health().dead_pages >= spilled
        again.check()
        roomy.configure(SPARSE)
        live(roomy, 400)
        for sequence, made in enumerate(MADE):
            held = again.inspect(Inspect(1, sequence)).num_tokens[0]
            again.write_kv(write(made, held, 400, sequence=sequence))
        for ours, theirs in zip(live(again, 500), live(roomy, 500), strict=True):
            assert array_equal(ours, theirs)
        again.check()


def test_a_drive_that_is_full_too_says_that_memory_is_short(tmp_path: Path) -> None:
    geometry = replace(SHORT, blocks_per_die=2, dram_nbytes=64 * 12 + 60_000)
    with closing(open_store(tmp_path / "image", geometry)) as store:
        store.configure(SPARSE)
        with pytest.raises(DriveFullError):
            live(store, 500)
        store.check()
        assert store.health().memory_used_nbytes <= geometry.dram_nbytes
