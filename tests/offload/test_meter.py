from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offload.meter import Reading, Stretch
from simulators.profile import DEFAULT
from tests.offload.zoo import generate, loaded, make_inputs, save_model, smallest_budget

START = Reading(10.0, 1.0, {"nvme->device": 1000}, {"nvme->device": 0.5}, 5, 0)


def stretch(**changes: Any) -> Stretch:
    return Stretch(START, replace(START, **changes), 3)


def test_differences() -> None:
    """Links that came into being on the way count from nothing."""
    found = stretch(
        time_s=14.0,
        stall_s=1.5,
        link_nbytes={"nvme->device": 3000, "device->nvme": 70},
        link_busy_s={"nvme->device": 0.75, "device->nvme": 0.25},
    )
    assert (found.seconds, found.stall_s) == (4.0, 0.5)
    assert (found.nbytes("nvme->device"), found.nbytes("device->nvme"), found.nbytes("host->device")) == (2000, 70, 0)
    assert (found.busy_s("nvme->device"), found.busy_s("device->nvme"), found.busy_s("none")) == (0.25, 0.25, 0.0)


def test_the_roofline_of_work_that_computes() -> None:
    """Without reads it is the time without waits."""
    assert stretch(time_s=14.0, stall_s=1.5).roofline_s(DEFAULT) == 3.5


def test_the_roofline_of_work_that_reads() -> None:
    """Missed bytes at the rate of the drive, the profile's or a higher one that it showed."""
    rate = DEFAULT.bytes_per_s("nvme->device")
    nbytes = int(rate * 6)
    slow = stretch(
        time_s=20.0, stall_s=9.0, link_nbytes={"nvme->device": 1000 + nbytes}, link_busy_s={"nvme->device": 8.5}
    )
    assert slow.roofline_s(DEFAULT) == pytest.approx(6.0)
    fast = replace(slow, end=replace(slow.end, link_busy_s={"nvme->device": 3.5}))
    assert fast.roofline_s(DEFAULT) == pytest.approx(3.0)


def test_writes_do_not_count_for_the_roofline() -> None:
    found = stretch(time_s=11.0, link_nbytes={"device->nvme": 10**12}, link_busy_s={"device->nvme": 1.0})
    assert found.roofline_s(DEFAULT) == 1.0


def test_hits_of_a_real_run(tmp_path: Path) -> None:
    """All resident: nothing is brought. All streamed: all weights but the rest are, and what stays of the KV cache."""
    path = save_model(tmp_path / "model", "llama")
    workload: dict[str, Any] = {"prompt_tokens": 200, "new_tokens": 8}
    least = smallest_budget(path, tmp_path / "nvme", **workload)
    for budget in ({}, {"device_memory": least, "nvme_dir": tmp_path / "nvme"}):
        with loaded(path, **workload, **budget) as model:
            start = Reading.of(model.runtime)
            generate(model, make_inputs(200), 8)
            end = Reading.of(model.runtime)
            chunks = -(-200 // (model.runtime.prefill_chunk_tokens or 200))
            found = Stretch(start, end, chunks + 7)
            assert end.kv_blocks_used > start.kv_blocks_used
            ratio = found.hit_ratio(model.runtime)
            if not budget:
                assert ratio == 1.0
                assert found.stall_s == 0.0
                assert found.roofline_s(DEFAULT) == found.seconds
            else:
                weights = model.plan.streamed_nbytes
                assert 0 < ratio < 0.5
                assert found.nbytes("nvme->device") >= (chunks + 6) * (weights - model.plan.slot_nbytes)
                assert 0 < found.roofline_s(DEFAULT) <= found.seconds


def test_hits_of_experts(tmp_path: Path) -> None:
    """What the device's cache holds counts as found, and the rest as brought."""
    path = save_model(tmp_path / "model", "mixtral", num_local_experts=6, num_experts_per_tok=2)
    workload: dict[str, Any] = {"prompt_tokens": 20, "new_tokens": 8}
    ratios = []
    for slots in (2, 24):
        with loaded(path, **workload) as model:
            most = model.plan.device_bytes_used - (24 - slots) * model.plan.expert_slot_nbytes
        with loaded(path, device_memory=most, nvme_dir=tmp_path / "nvme", **workload) as model:
            assert model.plan.expert_slots == slots
            generate(model, make_inputs(20), 8)  # finds the experts that are used
            start = Reading.of(model.runtime)
            generate(model, make_inputs(20), 8)
            end = Reading.of(model.runtime)
            assert end.experts_used - start.experts_used >= 7 * 4 * 2
            ratios.append(Stretch(start, end, 8).hit_ratio(model.runtime))
    assert 0 < ratios[0] < 0.8
    assert ratios[1] == 1.0
