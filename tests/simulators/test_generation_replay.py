"""A generation in virtual time: the same every time, no byte lost, never faster than the machine."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prefetch.block_store import blocks_ahead
from simulators.expert_trace import ExpertTrace
from simulators.generation_replay import Routing, replay_generation
from simulators.generation_shape import AttentionShape, GroupShape, LayerShape, ModelShape, PlacementShape, WorkShape
from simulators.profile import DEFAULT, HardwareProfile
from simulators.runtime_profile import RuntimeProfile, rate_of
from tiers.block import ExpertKey, WeightGroupKey
from tiers.errors import TraceError
from tiers.tier import Extent

PAGE, GROUP, LAYERS, EXPERTS, TOP_K = 4096, 64 * 4096, 6, 8, 2
WORK = WorkShape(prompt_tokens=96, new_tokens=20)
RUNTIME = RuntimeProfile(layer_s=1e-4, group_s=1e-5, kv_block_s=1e-6, kv_part_s=1e-5, busy_share=0.8, transfer_s=1e-4)
PROFILE = replace(DEFAULT, runtime=RUNTIME)


def make_group(name: str, *, is_streamed: bool) -> GroupShape:
    return GroupShape(WeightGroupKey(name), (GROUP,), (Extent(0, 0, GROUP, GROUP),), is_streamed)


def make_model(*, is_streamed: bool = False, has_experts: bool = False) -> ModelShape:
    attention = AttentionShape(kv_heads=2, token_nbytes=256, flops_per_pair=256.0)
    keys = [tuple(ExpertKey(i, e, "stored") for e in range(EXPERTS if has_experts else 0)) for i in range(LAYERS)]
    layers = [LayerShape(make_group(f"layers.{i}", is_streamed=is_streamed), attention, keys[i]) for i in range(LAYERS)]
    experts = tuple(
        GroupShape(key, (GROUP // 2, GROUP // 2), (Extent(1, 0, GROUP, GROUP),)) for some in keys for key in some
    )
    return ModelShape("float32", tuple(layers), (make_group("head.0", is_streamed=False),), experts)


def make_placement(
    model: ModelShape, *, kv_device: int = 1000, kv_nvme: int = 0, expert_slots: int = 0
) -> PlacementShape:
    return PlacementShape(
        streamed=tuple(layer.group.key for layer in model.layers if layer.group.is_streamed),
        staging_slots=3,
        slot_nbytes=GROUP,
        kv_block_tokens=16,
        kv_block_nbytes=16 * 256,
        kv_device_blocks=kv_device,
        kv_nvme_blocks=kv_nvme,
        expert_slots=expert_slots,
        expert_slot_nbytes=GROUP if model.experts else 0,
        prefill_chunk_tokens=32,
    )


def make_trace(work: WorkShape = WORK) -> ExpertTrace:
    tokens = work.prompt_tokens + work.new_tokens - 1
    draw = np.random.default_rng(3)
    experts = np.stack([[draw.permutation(EXPERTS)[:TOP_K] for _ in range(LAYERS)] for _ in range(tokens)])
    return ExpertTrace(
        model="a",
        num_experts=EXPERTS,
        layers=np.arange(LAYERS, dtype=np.int32),
        tokens=np.zeros(tokens, np.int32),
        requests=np.zeros(tokens, np.int32),
        passes=np.maximum(0, np.arange(tokens, dtype=np.int32) - work.prompt_tokens + 1),
        experts=experts.astype(np.int16),
        weights=np.full(experts.shape, 1 / TOP_K, np.float16),
        gate_inputs=np.zeros((tokens, LAYERS, 0), np.float16),
        gates=np.zeros((LAYERS, EXPERTS, 0), np.float32),
    )


def test_the_same_numbers_twice() -> None:
    model = make_model(is_streamed=True, has_experts=True)
    placement = make_placement(model, kv_device=20, kv_nvme=200, expert_slots=12)
    runs = [replay_generation(model, placement, WORK, PROFILE, Routing(make_trace(), "expected_use")) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0].kv.misses > 0
    assert runs[0].experts.misses > 0


def test_what_came_from_the_drive_is_what_was_missed() -> None:
    model = make_model(has_experts=True)
    result = replay_generation(
        model, make_placement(model, expert_slots=12), WORK, PROFILE, Routing(make_trace(), "lru")
    )
    assert result.experts.accesses > result.experts.misses > 0
    assert result.link_nbytes["nvme->device"] == result.experts.misses * GROUP


def test_every_streamed_layer_comes_in_every_pass() -> None:
    model = make_model(is_streamed=True)
    placement = make_placement(model)
    result = replay_generation(model, placement, WORK, PROFILE)
    passes = len(WORK.passes(placement.prefill_chunk_tokens))
    assert result.weights.accesses == passes * LAYERS
    brought = result.link_nbytes["nvme->device"]
    # At the end some of what is read ahead for a next token is on its way.
    assert passes * LAYERS * GROUP <= brought <= (passes * LAYERS + placement.staging_slots) * GROUP


@pytest.mark.parametrize("is_streamed", [False, True])
def test_no_step_beats_the_roofline(is_streamed: bool) -> None:
    model = make_model(is_streamed=is_streamed)
    result = replay_generation(model, make_placement(model), WORK, PROFILE)
    compute_s = (LAYERS + 1) * GROUP / PROFILE.memory_bytes_per_s + LAYERS * RUNTIME.layer_s
    reading_s = LAYERS * GROUP / PROFILE.bytes_per_s("nvme->device") if is_streamed else 0.0
    assert result.decode_s / result.decode_steps >= 0.99 * max(compute_s, reading_s)


def test_without_a_measured_runtime_a_step_is_its_bytes() -> None:
    """What profiles of before have, and those of data sheets."""
    model = make_model()
    result = replay_generation(model, make_placement(model), WORK, DEFAULT)
    weights_s = (LAYERS + 1) * GROUP / DEFAULT.memory_bytes_per_s
    context_s = LAYERS * (WORK.prompt_tokens + WORK.new_tokens) * 256 / DEFAULT.memory_bytes_per_s
    assert weights_s <= result.decode_s / result.decode_steps <= weights_s + context_s


def with_runtime(**known: Any) -> HardwareProfile:
    return replace(PROFILE, runtime=replace(RUNTIME, **known))


def test_moving_blocks_takes_what_was_measured() -> None:
    """And changes nothing where none moves."""
    model = make_model()
    block = 16 * 256
    slow = with_runtime(kv_moved={"host->device": ((block, block / 1e-3),)})
    placement = replace(make_placement(model, kv_device=20), kv_host_blocks=200)
    quick, taken = (replay_generation(model, placement, WORK, profile) for profile in (PROFILE, slow))
    moved = quick.link_nbytes["host->device"] / block
    assert taken.link_nbytes == pytest.approx(quick.link_nbytes, rel=0.05)  # at the end some are on their way
    longer_s = taken.prefill_s + taken.decode_s - quick.prefill_s - quick.decode_s
    assert 0.9e-3 * moved < longer_s < 1.1e-3 * moved / RUNTIME.busy_share
    still = make_placement(model)
    assert replay_generation(model, still, WORK, PROFILE) == replay_generation(model, still, WORK, slow)


def test_looking_for_blocks_that_may_be_elsewhere_takes_time_in_every_layer() -> None:
    model = make_model()
    slow = with_runtime(kv_visit_s=1e-3)
    here = replace(make_placement(model), kv_host_blocks=1)
    quick, taken = (replay_generation(model, here, WORK, profile) for profile in (PROFILE, slow))
    assert taken.decode_s - quick.decode_s == pytest.approx(taken.decode_steps * LAYERS * 1e-3)


def test_a_prompt_takes_more_than_its_products() -> None:
    """As long as what they give; a single token nothing more."""
    model, tokens = make_model(), WORK.prompt_tokens
    model = replace(model, layers=tuple(replace(layer, activation_nbytes=100) for layer in model.layers))
    placement = replace(make_placement(model), prefill_chunk_tokens=None)
    slow = with_runtime(activations={"float32": ((100 * tokens, 1e5),)})
    quick, taken = (replay_generation(model, placement, WORK, profile) for profile in (PROFILE, slow))
    assert taken.prefill_s - quick.prefill_s == pytest.approx(LAYERS * (tokens - 1) * 1e-3)
    assert taken.decode_s == pytest.approx(quick.decode_s)
    half = with_runtime(attention_flops_per_s=PROFILE.flops_per_s("float32") / 1e4)
    assert replay_generation(model, placement, WORK, half).prefill_s > quick.prefill_s


def test_a_host_with_room_for_what_comes_ahead_is_hardly_waited_for() -> None:
    """With one that has just the blocks that the device has no room for, most are asked for when they are needed."""
    model, device, window = make_model(), 24, 8
    total = LAYERS * -(-(WORK.prompt_tokens + WORK.new_tokens) // 16)
    exact = replace(make_placement(model, kv_device=device), kv_host_blocks=total - device + window)
    roomy = replace(exact, kv_host_blocks=exact.kv_host_blocks + blocks_ahead(device, 16 * 256))
    few, many = (replay_generation(model, placement, WORK, PROFILE).kv for placement in (roomy, exact))
    assert few.misses <= 0.01 * few.accesses
    assert many.misses > 10 * few.misses


def test_more_memory_is_never_slower() -> None:
    model = make_model(has_experts=True)
    seconds = [
        replay_generation(
            model, make_placement(model, expert_slots=slots), WORK, PROFILE, Routing(make_trace(), "lru")
        ).decode_s
        for slots in (4, 12, 24, 48)
    ]
    assert seconds == sorted(seconds, reverse=True)


def test_a_mixture_needs_the_routing_of_the_same_generation() -> None:
    model = make_model(has_experts=True)
    placement = make_placement(model, expert_slots=12)
    with pytest.raises(TraceError, match="trace record"):
        replay_generation(model, placement, WORK, PROFILE)
    other = make_trace(WorkShape(prompt_tokens=50, new_tokens=20))
    with pytest.raises(TraceError, match="passes"):
        replay_generation(model, placement, WORK, PROFILE, Routing(other, "lru"))


def test_a_rate_between_two_rows_lies_between() -> None:
    table = ((100, 10.0), (200, 40.0))
    assert rate_of(table, 50) == 10.0
    assert rate_of(table, 150) == pytest.approx(150 / 7.5)
    assert rate_of(table, 900) == 40.0
