import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from offload.checkpoint.in_place import SafetensorsTier
from offload.pack import pack
from offload.weights.binding import ParameterMap
from offload.weights.streamer import LayerHooks, WeightStreamer
from tests.offload.checkpoints import save_llama
from tiers.block import WeightGroupKey
from tiers.errors import CorruptBlockError, TransferError
from tiers.packed_store import PackedStore
from tiers.tier import align_up
from tiers.transfer import TransferEngine
from tiers.weight_tier import WeightGroup, WeightTier

LAYERS = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("model"), num_hidden_layers=LAYERS)


@contextmanager
def streaming(source: WeightTier, slots: int, engine: TransferEngine | None = None) -> Iterator[WeightStreamer]:
    engine = engine or TransferEngine()
    groups = [group for group in source.groups if group.kind == "layer"]
    streamer = WeightStreamer(engine, source, groups, slots)
    try:
        yield streamer
    finally:
        engine.close()
        streamer.close()
        source.close()


def layer(index: int) -> WeightGroupKey:
    return WeightGroupKey(f"layers.{index}")


def content(source: WeightTier, key: WeightGroupKey) -> bytes:
    group = source.groups[source.slot_of(key)]
    buffer = bytearray(group.nbytes)
    source.read(source.slot_of(key), memoryview(buffer))
    return bytes(buffer)


def check(streamer: WeightStreamer, source: WeightTier, key: WeightGroupKey) -> None:
    """The group is in its staging slot while it is held."""
    expected = content(source, key)
    slot = streamer.acquire(key)
    found = bytearray(len(expected))
    streamer.arena.read(slot, memoryview(found))
    assert found == expected
    streamer.release(key)
    streamer.manager.check()


def check_all(streamer: WeightStreamer, source: WeightTier, indices: Iterable[int]) -> None:
    for index in indices:
        check(streamer, source, layer(index))


@pytest.mark.parametrize("slots", [1, 2, 3, LAYERS])
def test_passes_in_order(checkpoint: Path, slots: int) -> None:
    source = SafetensorsTier(checkpoint)
    with streaming(source, slots) as streamer:
        streamer.start()
        for _ in range(3):
            check_all(streamer, source, range(LAYERS))


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("order", [[0, 1, 0, 1, 2], [3, 2, 1, 0], [0, 2, 4, 0, 2], [5, 5, 5, 0]])
def test_passes_that_leave_groups_out_or_stop_early(checkpoint: Path, slots: int, order: list[int]) -> None:
    """What was read ahead for the usual order holds all slots; whoever really needs one gets it."""
    source = SafetensorsTier(checkpoint)
    with streaming(source, slots) as streamer:
        streamer.start()
        check_all(streamer, source, order)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_pass_that_was_interrupted_between_acquire_and_release(checkpoint: Path, slots: int) -> None:
    """Ctrl-C skips the hooks that torch always calls: the slot must not stay taken."""
    source = SafetensorsTier(checkpoint)
    with streaming(source, slots) as streamer:
        for _ in range(3):
            streamer.acquire(layer(2))
            check_all(streamer, source, [0, 1])


def test_interrupted_while_it_waits(checkpoint: Path) -> None:
    source = SafetensorsTier(checkpoint)
    engine = TransferEngine()
    with streaming(source, 1, engine) as streamer:
        with patch.object(engine, "wait", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            streamer.acquire(layer(3))
        check_all(streamer, source, [0, 3, 4])


def test_releasing_what_is_not_held(checkpoint: Path) -> None:
    source = SafetensorsTier(checkpoint)
    with streaming(source, 1) as streamer:
        streamer.release(layer(0))
        check(streamer, source, layer(0))


def damage(store: Path, key: WeightGroupKey) -> None:
    """Flip a bit in the middle of a group of a packed store."""
    with (store / key.name / "c" / "0" / "0").open("r+b") as shard:
        shard.seek(5000)
        byte = shard.read(1)[0]
        shard.seek(5000)
        shard.write(bytes([byte ^ 1]))


def test_a_damaged_group_is_never_handed_out(checkpoint: Path, tmp_path: Path) -> None:
    """Neither on demand nor after it was read ahead; the others go on working."""
    pack(checkpoint, tmp_path / "packed")
    damage(tmp_path / "packed", layer(2))
    source = PackedStore(tmp_path / "packed")
    with streaming(source, 2) as streamer:
        for _ in range(2):
            # Together with groups that were read ahead in one go with it, or when it is needed itself.
            with pytest.raises(CorruptBlockError, match=r"layers.2 of .* is corrupt"):
                check_all(streamer, source, [0, 1, 2])
            streamer.release(layer(2))
            check_all(streamer, source, [3, 4, 5])


def test_a_file_that_shrinks(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    source = SafetensorsTier(copy)
    with streaming(source, 2) as streamer:
        os.truncate(copy / "model.safetensors", 4096)
        for _ in range(2):
            with pytest.raises(TransferError, match=r"0 of .* bytes moved"):
                streamer.acquire(layer(5))
            streamer.manager.check()


class Scaled(nn.Module):
    """Adds a weight that is streamed; fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(64, device="meta"))
        self.error: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.error:
            raise self.error
        return x + self.weight


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scaled = [Scaled() for _ in range(LAYERS)]
        self.layers = nn.ModuleList(self.scaled)


def hooked(streamer: WeightStreamer, source: WeightTier) -> tuple[list[Scaled], list[Tensor]]:
    """A model of layers that each add one weight of a group, and the values of these weights."""
    model = Model()
    groups, expected = [], []
    for index in range(LAYERS):
        group = source.groups[source.slot_of(layer(index))]
        (spec,) = (spec for spec in group.tensors if spec.name.endswith("input_layernorm.weight"))
        spec = type(spec)(f"layers.{index}.weight", spec.dtype, spec.shape, spec.offset)
        groups.append(WeightGroup(group.key, "layer", (spec,), align_up(group.nbytes)))
        stored = torch.frombuffer(bytearray(content(source, layer(index))), dtype=torch.float32, offset=spec.offset)
        expected.append(stored[:64])
    parameters = ParameterMap(model, "none", "PATH", ())
    for index, group in enumerate(groups):
        LayerHooks(streamer, parameters.bind(group), model.scaled[index])
    return model.scaled, expected


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_layers_have_their_weights_while_they_run(checkpoint: Path, slots: int) -> None:
    source = SafetensorsTier(checkpoint)
    with streaming(source, slots) as streamer:
        layers, expected = hooked(streamer, source)
        for _ in range(2):
            for index, module in enumerate(layers):
                assert torch.equal(module(torch.zeros(64)), expected[index])
                assert module.weight.numel() == 0, "nothing old to be used by mistake"


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()])
def test_a_layer_that_fails_gives_its_slot_back(checkpoint: Path, error: BaseException) -> None:
    source = SafetensorsTier(checkpoint)
    with streaming(source, 1) as streamer:
        layers, expected = hooked(streamer, source)
        layers[3].error = error
        with pytest.raises(type(error)):
            layers[3](torch.zeros(64))
        layers[3].error = None
        for index, module in enumerate(layers):
            assert torch.equal(module(torch.zeros(64)), expected[index])
