"""The cache of experts over a real engine and a checkpoint on disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from offload.checkpoint.source import open_source
from offload.experts.bind import bind_experts
from offload.experts.codecs.base import Matrix
from offload.experts.codecs.stored import StoredMatrix
from offload.experts.names import CheckpointNames
from offload.experts.store import ExpertStore
from tests.offload.zoo import save_model
from tiers.block import ExpertKey
from tiers.errors import TierFullError
from tiers.transfer import TransferEngine
from tiers.weight_tier import STORED

LAYERS, EXPERTS = 4, 6


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("moe"), "mixtral", num_local_experts=EXPERTS, num_experts_per_tok=2)


@contextmanager
def opened(path: Path, slots: int) -> Iterator[ExpertStore]:
    source, engine = open_source(path), TransferEngine()
    groups = [group for group in source.groups if group.kind == "expert"]
    store = ExpertStore(engine, source, groups, slots)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path)
    bind_experts(model, CheckpointNames(model), store, groups)
    try:
        yield store
        store.manager.check()
        assert not store.manager._placement.pinned, "everything was let go of"
    finally:
        engine.close()
        store.close()
        source.close()


def key(layer: int, expert: int) -> ExpertKey:
    return ExpertKey(layer, expert, STORED)


def as_is(matrix: Matrix) -> torch.Tensor:
    assert isinstance(matrix, StoredMatrix)
    return matrix.weight


def visited(store: ExpertStore, layer: int, *experts: int) -> list[int]:
    groups = store.visit([key(layer, expert) for expert in experts])
    return [key.expert for group in groups for key, _ in group]


def test_weights_are_those_of_the_checkpoint(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    with opened(path, 3) as store:
        for layer in range(LAYERS):
            groups = store.visit([key(layer, expert) for expert in range(EXPERTS)])
            for found, weights in chain.from_iterable(groups):
                name = f"model.layers.{layer}.block_sparse_moe.experts.{found.expert}"
                gate_and_up = [tensors[f"{name}.{part}.weight"] for part in ("w1", "w3")]
                assert torch.equal(torch.cat([as_is(matrix) for matrix in weights.up]), torch.cat(gate_and_up))
                assert torch.equal(as_is(weights.down), tensors[f"{name}.w2.weight"])


def test_those_that_are_there_come_first(path: Path) -> None:
    with opened(path, 4) as store:
        assert visited(store, 0, 1, 4) == [1, 4]
        assert visited(store, 0, 0, 1, 3, 4) == [1, 4, 0, 3]
        assert (store.manager.stats.hits, store.manager.stats.misses) == (2, 4)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_more_experts_than_slots(path: Path, slots: int) -> None:
    with opened(path, slots) as store:
        for _ in range(2):
            for layer in range(LAYERS):
                assert sorted(visited(store, layer, *range(EXPERTS))) == list(range(EXPERTS))
        assert store.pool.peak_used == slots


def test_whoever_stops_half_way_lets_go(path: Path) -> None:
    with opened(path, 3) as store:
        visit = store.visit([key(0, expert) for expert in range(3)])
        next(visit)
        visit.close()
        assert visited(store, 1, 0, 1, 2) == [0, 1, 2]


def test_no_room_at_all(path: Path) -> None:
    with opened(path, 1) as store:
        for _ in store.visit([key(0, 0)]):
            with pytest.raises(TierFullError):
                visited(store, 0, 1)
