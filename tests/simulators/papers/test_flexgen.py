"""The block schedule by hand, its limits, and the published table."""

from dataclasses import replace

import pytest

from simulators.papers.cell import is_in_order, rows_of
from simulators.papers.flexgen import OPT, Placement, SoftwareRates, accelerate, deepspeed, flexgen, tokens_per_s
from simulators.papers.flexgen_table import (
    ACCELERATE,
    DEEPSPEED,
    DEEPSPEED_EFFICIENCY,
    FLEXGEN,
    FLEXGEN_4_BIT,
    LARGE,
    MIDDLE,
    RATES,
    flexgen_cells,
    google_disk,
)
from simulators.profile import LinkProfile
from simulators.published import load_profile

MACHINE = load_profile("t4_gcp")
HOST_NBYTES, DRIVE_NBYTES = 208e9, 1.5e12
CELLS = flexgen_cells()


def test_sizes() -> None:
    """OPT-30B has 48 layers of 1.23 GB; 528 tokens of a sequence are 15 MB in each of them."""
    assert MIDDLE.layer_nbytes * MIDDLE.layers == pytest.approx(59.2e9, rel=0.01)
    assert LARGE.layer_nbytes * LARGE.layers == pytest.approx(348e9, rel=0.01)
    assert MIDDLE.cache_nbytes(528) == 2 * 2 * 7168 * 528


def test_what_is_near_is_read_from_the_devices_memory() -> None:
    model = OPT("tiny", 10, 1024)
    times = flexgen(model, Placement(1), MACHINE, replace(RATES, matmul_decode=1e18, attention_decode=1e18), 64, 11)
    a_token_s = (10 * model.layer_nbytes + model.head_nbytes) / (MACHINE.memory_bytes_per_s * MACHINE.memory_share)
    assert times.decode_s == pytest.approx(10 * a_token_s, rel=1e-6)
    assert tokens_per_s(times, 1, 11) == 11 / (times.prefill_s + times.decode_s)


def test_a_layer_waits_for_its_weights_and_then_for_the_slowest() -> None:
    """A step of 144 sequences: 0.07 s for the weights, 0.18 s of the processor's attention, 0.04 s of the device."""
    at = next(run.placement for run in FLEXGEN if run.model is MIDDLE and run.prompt == 512)
    times = flexgen(MIDDLE, at, MACHINE, RATES, 512, 32)
    a_layer_s = times.decode_s / 31 / 48
    weights_s = 0.8 * MIDDLE.layer_nbytes / (12.89 * 2**30)
    attention_s = MIDDLE.cache_nbytes(144 * 528) / RATES.attention_host
    matmul_s = 144 * MIDDLE.layer_nbytes / RATES.matmul_decode
    assert a_layer_s == pytest.approx(weights_s + attention_s + matmul_s, rel=0.01)


def test_the_published_placements_fit_the_machine() -> None:
    for run in (*FLEXGEN, *FLEXGEN_4_BIT):
        at, model = run.placement, run.model
        weights = model.layer_nbytes * model.layers * (4.5 / 16 if at.compressed_weights else 1)
        cache = model.cache_nbytes(at.sequences * (run.prompt + 32)) * model.layers
        cache *= 4.5 / 16 if at.compressed_cache else 1
        assert weights * at.weights_host + cache * at.cache_host < HOST_NBYTES
        assert weights * at.weights_drive + cache * at.cache_drive < DRIVE_NBYTES
        near = 1 - at.weights_host - at.weights_drive
        assert weights * near + cache * (1 - at.cache_host - at.cache_drive) < 16 * 2**30


def test_one_more_batch_of_the_largest_model_does_not_fit() -> None:
    """Which is why its effective batch is 144 with 4 bits."""
    at = next(run.placement for run in FLEXGEN_4_BIT if run.model is LARGE and run.prompt == 512)
    nbytes = [
        (LARGE.layer_nbytes + LARGE.cache_nbytes(48 * batches * 544)) * LARGE.layers * 4.5 / 16
        for batches in (at.num_batches, at.num_batches + 1)
    ]
    assert nbytes[0] < HOST_NBYTES < nbytes[1]


@pytest.mark.parametrize("link", ["host->device", "nvme->host", "host->nvme", "device->host"])
def test_a_faster_link_is_never_slower(link: str) -> None:
    faster = {**MACHINE.links, link: LinkProfile(1e12, 1e12, 0.0)}
    other = replace(MACHINE, links=faster)
    for run in (*FLEXGEN, *FLEXGEN_4_BIT):
        ours, theirs = (flexgen(run.model, run.placement, one, RATES, run.prompt, 32) for one in (MACHINE, other))
        assert theirs.prefill_s <= ours.prefill_s
        assert theirs.decode_s <= ours.decode_s


def test_a_larger_block_shares_the_weights() -> None:
    at = next(run.placement for run in FLEXGEN if run.model is LARGE and run.prompt == 512)
    alone = replace(at, num_batches=1)
    whole, single = (flexgen(LARGE, one, MACHINE, RATES, 512, 32) for one in (at, alone))
    assert tokens_per_s(whole, at.sequences, 32) > 1.5 * tokens_per_s(single, alone.sequences, 32)


def test_row_by_row_is_bound_by_the_weights() -> None:
    slow = deepspeed(MIDDLE, 4, MACHINE, RATES, 512, 32, efficiency=DEEPSPEED_EFFICIENCY)
    moved_s = MIDDLE.layers * MIDDLE.layer_nbytes / (DEEPSPEED_EFFICIENCY * 12.89 * 2**30)
    assert slow.decode_s == pytest.approx(31 * moved_s)
    from_drive = deepspeed(MIDDLE, 4, MACHINE, RATES, 512, 32, efficiency=1.0, on_drive=True)
    assert from_drive.decode_s == pytest.approx(31 * MIDDLE.layers * MIDDLE.layer_nbytes / 2e9)
    places = [accelerate(MIDDLE, 8, MACHINE, RATES, 512, 32, weights_on=one) for one in ("device", "host", "drive")]
    assert sorted(times.decode_s for times in places) == [times.decode_s for times in places]


def test_every_published_cell_is_there_once() -> None:
    names = [(cell.table, cell.row, cell.system) for cell in CELLS]
    assert len(set(names)) == len(names)
    assert len([cell for cell in CELLS if not cell.is_variant]) == 3 + sum(
        map(len, (FLEXGEN, FLEXGEN_4_BIT, DEEPSPEED, ACCELERATE))
    )
    calibrated = {cell.system: cell.error for cell in CELLS if cell.is_calibrated}
    assert calibrated.keys() == {"DeepSpeed ZeRO-Inference", "FlexGen, 4 bits"}
    assert all(abs(error) < 0.01 for error in calibrated.values())


def test_bars_that_hold() -> None:
    """All but those that the drive bounds, for which the paper has a round number; and those with Google's."""
    missed = {(cell.row, cell.system) for cell in CELLS if not cell.is_within}
    assert all(row.startswith("OPT-175B") for row, _ in missed)
    assert {system for _, system in missed} == {"FlexGen"}
    assert all(cell.note for cell in CELLS if not cell.is_within)
    assert all(cell.is_within and abs(cell.error) < 0.1 for cell in CELLS if cell.is_variant)
    assert google_disk(MACHINE).bytes_per_s("nvme->host") == 2.65e9
    assert SoftwareRates().matmul_prefill < MACHINE.flops_per_s("float16")


def test_systems_come_in_the_published_order() -> None:
    rows = [row for row in rows_of(CELLS) if len(row) > 1]
    assert [row[0].row for row in rows if not is_in_order(row)] == ["OPT-6.7B, prompts of 256 tokens"]
