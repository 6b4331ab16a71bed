"""A drive's own traces, timed: what it programs is in them and takes its time."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulators.flash.command_timing import CommandTiming
from simulators.flash.drive import DriveParameters
from tests.tiers.csd.kit import CONFIG, SMALL, attend, open_store, tokens, write
from tiers.csd.store import DriveStore
from tiers.csd.timing import DriveWork

CONFIG_2K = replace(CONFIG, max_tokens=2048)
"""Groups of 16 tokens, spans of 512; 2 channels a page."""
GEOMETRY = replace(SMALL, channels=8, dies_per_channel=4, blocks_per_die=8, dram_nbytes=1 << 24)
DRIVE = DriveParameters(dies_per_channel=4)


def work_of(store: DriveStore, n: int) -> DriveWork:
    return DriveWork(CONFIG_2K, GEOMETRY, (n,), sent_nbytes=n * 1024, received_nbytes=1024, trace=store.trace())


@pytest.mark.parametrize("key_copies", [1, 2])
def test_a_prompt_takes_the_time_of_its_programs(tmp_path: Path, key_copies: int) -> None:
    config, made = replace(CONFIG_2K, key_copies=key_copies), tokens(2048)
    with closing(open_store(tmp_path / "image", GEOMETRY, traces=True)) as store:
        store.configure(config)
        store.write_kv(write(made, 0, 2048))
        work = work_of(store, 2048)
    num_pages = (1 + key_copies) * 2 * 128
    phases = work.trace.phases
    assert {phase: pages.size for phase, pages in phases.items()} == {"program": num_pages}
    programs_per_die = num_pages / DRIVE.num_dies / DRIVE.pages_per_program
    seconds = CommandTiming(DRIVE).write_s(work)
    assert seconds > programs_per_die * DRIVE.program_s > DRIVE.link_s(work.sent_nbytes)


@pytest.mark.parametrize("dram_nbytes", [1 << 24, 350_000])
def test_decoding_is_billed_for_its_flushes_in_the_background(tmp_path: Path, dram_nbytes: int) -> None:
    """A page of each head for keys and values every 16 tokens; every span the channel copy, read back if it must be."""
    made, totals = tokens(1030), dict.fromkeys(("program", "copy"), 0)
    with closing(open_store(tmp_path / "image", replace(GEOMETRY, dram_nbytes=dram_nbytes), traces=True)) as store:
        store.configure(CONFIG_2K)
        store.write_kv(write(made, 0, 480))
        store.trace()
        timing = CommandTiming(DRIVE)
        times = []
        for token in range(480, 530):
            store.attend(attend(made, token))
            work = work_of(store, token + 1)
            for phase in totals:
                totals[phase] += work.trace.phases.get(phase, np.empty(0)).size
            times.append(timing.attend_s(work))
            store.work()
    assert totals["program"] == 2 * (2 * 3 + 32), "three groups, and a span of 512 tokens"
    assert totals["copy"] == (0 if dram_nbytes > 350_000 else 2 * 31), "all groups of the span but the newest"
    # The step behind a flush waits for dies that program; no other does.
    assert sum(seconds > DRIVE.program_s for seconds in times) <= 3 + 2
    assert max(times) > DRIVE.program_s > min(times)
