"""Engines by name."""

import pytest

from tiers.csd.engines.dense import DenseEngine
from tiers.csd.engines.group_mass import GroupMassEngine
from tiers.csd.engines.registry import ENGINES, SPARSE, EngineConfig
from tiers.csd.engines.sparf import SparFEngine
from tiers.errors import InvalidOptionError


@pytest.mark.parametrize("name", ENGINES)
def test_every_name_makes_an_engine(name: str) -> None:
    assert EngineConfig(name, compression=0.25).engine().summary.vectors >= 0


def test_the_sparse_engine_and_its_exact_layers() -> None:
    config = EngineConfig(SPARSE, compression=0.25, dense_layers=(0, 1))
    assert [type(config.engine(layer)) for layer in (0, 1, 2)] == [DenseEngine, DenseEngine, GroupMassEngine]


def test_sparf_by_its_own_numbers() -> None:
    engine = EngineConfig("sparf", r=16, k=64, local_k=8).engine()
    assert isinstance(engine, SparFEngine)
    assert (engine.r, engine.k, engine.local_k) == (16, 64, 8)
    engine = EngineConfig("sparf", compression=1).engine()
    assert isinstance(engine, SparFEngine)
    assert (engine.r, engine.k) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "fast"}, "attention engine 'fast' is unknown; choose one of channel_groups, dense"),
        ({"name": "group_mass", "compression": 0}, r"the share of groups is 0\.0"),
        ({"name": "group_mass", "k": 16}, "'group_mass' has no k"),
        ({"name": "sparf", "r": 0}, "r is 0"),
    ],
)
def test_bad_configurations(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        EngineConfig(**options)  # type: ignore[arg-type]
