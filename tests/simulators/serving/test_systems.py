"""Systems that serve a model larger than the GPU's room for its cache: what they take, and when they end."""

from dataclasses import replace

import pytest

from simulators.flash.drive_file import load_drive
from simulators.flash.makespan import closed_form_s
from simulators.model_costs import read_model_shape
from simulators.published import find_published, load_profile
from simulators.serving.base import Host, ServingSystem, Workload
from simulators.serving.flexgen import FlexGen
from simulators.serving.in_storage import InStorage
from simulators.serving.link_path import LinkPath, PeerToPeer, ViaHost
from simulators.serving.moved import serving_energy_j
from simulators.serving.recompute import Recompute
from simulators.serving.selection import ClusteredSelection
from simulators.serving.software import SoftwareCosts
from simulators.serving.zero import ZeroInference
from tiers.errors import BudgetError

OPT = read_model_shape(find_published("models", "opt-13b"))
HOST = Host(load_profile("a6000"))
COSTS = SoftwareCosts()
DRIVE = load_drive("instattention")
DENSE = InStorage(DRIVE, COSTS)
SPARSE = replace(DENSE, selection=ClusteredSelection())


def _workload(batch: int) -> Workload:
    return Workload(OPT, batch, 512, 512)


def test_sizes_of_the_models_evaluated() -> None:
    """OPT has no gate: 12.85 B weights, of which the embedding is one matrix; 0.78 MiB of cache a token."""
    assert OPT.active_weights == pytest.approx(12.84e9, rel=0.001)
    assert OPT.kv_nbytes_per_token == 819_200
    for name, weights in (("opt-30b", 29.8e9), ("llama-2-13b", 12.85e9)):
        assert read_model_shape(find_published("models", name)).active_weights == pytest.approx(weights, rel=0.01)


@pytest.mark.parametrize("system", [DENSE, SPARSE, FlexGen(COSTS), ZeroInference(COSTS), Recompute(COSTS)])
def test_times_add_up(system: ServingSystem) -> None:
    time = system.time(_workload(4), HOST)
    assert time.prefill_s > 0
    assert 0 < time.kv_s < time.decode_s
    assert time.tokens_per_s == pytest.approx(4 * 512 / (time.prefill_s + time.decode_s))
    assert time.kv_share == time.kv_s / time.decode_s


def test_attention_in_storage_is_never_faster_than_its_flash() -> None:
    workload = _workload(8)
    for system, copies in ((DENSE, 1.0), (SPARSE, 0.3)):
        attend = system.attend(workload, 768)
        nbytes = workload.kv_nbytes(768) / OPT.layers
        assert attend.seconds > copies * nbytes / (DRIVE.channels * DRIVE.channel_bytes_per_s)
    assert SPARSE.attend(workload, 768).seconds < DENSE.attend(workload, 768).seconds


def test_the_link_carries_vectors_only() -> None:
    """q, k, v there and the output back: 4 vectors of 5,120 halves for each sequence and layer."""
    attend = DENSE.attend(_workload(8), 768)
    nbytes = 8 * 4 * 5120 * 2
    assert attend.stations_s["link"] == pytest.approx(2 * DRIVE.link_latency_s + nbytes / DRIVE.link_bytes_per_s)


@pytest.mark.parametrize(("path", "crossings"), [(PeerToPeer(), 0), (ViaHost(), 2)])
def test_engines_work_as_long_as_they_attend(path: LinkPath, crossings: int) -> None:
    """That includes weighing, which is no part of ``kv_s``, and not the hop by way of the host, which costs DRAM."""
    workload, system, power = _workload(8), replace(DENSE, path=path), HOST.profile.power
    time = system.time(workload, HOST)
    moved = system.moved(time, HOST)
    assert moved.engine_busy_s == pytest.approx(512 * OPT.layers * system.attend(workload, 768).seconds)
    assert moved.drive_busy_s - moved.engine_busy_s == pytest.approx(OPT.layers * system.layer_write_s(workload, HOST))
    assert moved.host_nbytes == crossings * sum(moved.links.values())
    assert power is not None
    assert serving_energy_j(power, time, moved)["dram"] == power.dram_j_per_byte * moved.host_nbytes


@pytest.mark.parametrize("change", [{"channels": 16}, {"dies_per_channel": 32}, {"read_s": 30e-6}])
def test_a_better_drive_is_faster(change: dict[str, float]) -> None:
    better = replace(DENSE, drive=replace(DRIVE, **change))  # type: ignore[arg-type]
    assert better.time(_workload(8), HOST).tokens_per_s > DENSE.time(_workload(8), HOST).tokens_per_s


def test_more_drives_are_faster_and_fewer_picks_too() -> None:
    workload = _workload(16)
    rates = [replace(DENSE, drives=drives).time(workload, HOST).tokens_per_s for drives in (1, 2, 20)]
    assert rates == sorted(rates)
    assert rates[1] < 2 * rates[0]
    fewer = replace(SPARSE, selection=ClusteredSelection(channels=8, token_share=1 / 16))
    assert fewer.time(workload, HOST).tokens_per_s > SPARSE.time(workload, HOST).tokens_per_s


def test_the_closed_form_serves_for_searches() -> None:
    rough = replace(DENSE, makespan=closed_form_s).time(_workload(8), HOST)
    assert rough.tokens_per_s == pytest.approx(DENSE.time(_workload(8), HOST).tokens_per_s, rel=0.01)


def test_a_prefill_hides_the_writes_or_the_arithmetic() -> None:
    workload = _workload(8)
    layers, write_s = OPT.layers, DENSE.layer_write_s(workload, HOST)
    slow = replace(DENSE, drive=replace(DRIVE, program_s=1.0))
    assert slow.prefill_s(workload, HOST) > layers * slow.layer_write_s(workload, HOST)
    assert DENSE.prefill_s(workload, HOST) < layers * write_s + FlexGen(COSTS).time(workload, HOST).prefill_s


def test_flexgen_reads_from_the_page_cache_until_it_is_full() -> None:
    """Batch 64 of 1,024 tokens is 54 GB, beside 26 GB of weights: it fits in 90 GiB and not in 64."""
    large = FlexGen(COSTS).time(_workload(64), HOST)
    small = FlexGen(COSTS).time(_workload(64), replace(HOST, host_nbytes=64 * 2**30))
    assert small.kv_s > 1.15 * large.kv_s
    direct = FlexGen(COSTS, is_direct=True)
    assert direct.time(_workload(64), HOST) == direct.time(_workload(64), replace(HOST, host_nbytes=64 * 2**30))
    assert FlexGen(COSTS, kv_share=1 / 8).time(_workload(64), HOST).kv_s == pytest.approx(large.kv_s / 8)


def test_flexgen_runs_out_of_gpu_memory_in_prefill() -> None:
    """At 1,024 tokens between batch 64 and 128, as published."""
    FlexGen(COSTS).time(Workload(OPT, 64), HOST)
    with pytest.raises(BudgetError, match=r"a prefill of 128 x 1024 tokens takes .* take a smaller batch") as caught:
        FlexGen(COSTS).time(Workload(OPT, 128), HOST)
    assert caught.value.wanted_bytes > caught.value.available_bytes


def test_deepspeed_falls_when_pinned_memory_runs_out() -> None:
    zero = ZeroInference(COSTS)
    assert [zero.spills(Workload(OPT, batch), HOST) for batch in (4, 16, 32)] == [False, False, True]
    assert zero.time(Workload(OPT, 16), HOST).tokens_per_s > 30 * zero.time(Workload(OPT, 32), HOST).tokens_per_s


def test_recomputing_pays_while_everything_fits() -> None:
    recompute = Recompute(COSTS)
    fits, turns = (recompute.time(Workload(OPT, batch), HOST).tokens_per_s for batch in (4, 64))
    assert fits > 10 * turns
    with pytest.raises(BudgetError, match=r"one sequence of 1024 tokens takes .* the GPU has"):
        recompute.time(_workload(1), replace(HOST, device_nbytes=28 * 2**30))
