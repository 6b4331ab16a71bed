"""Engines by name."""

from collections.abc import Mapping

import pytest

from tiers.csd.engines.group_mass import GroupMassEngine
from tiers.csd.engines.registry import ENGINES, EXACT, SPARSE, make_engine, options_for
from tiers.csd.engines.sparf import SparFEngine
from tiers.errors import InvalidOptionError


@pytest.mark.parametrize("name", ENGINES)
def test_every_name_makes_an_engine(name: str) -> None:
    assert type(make_engine(name)) is ENGINES[name]
    assert type(make_engine(name, options_for(name, 0.25))) is ENGINES[name]


def test_a_compression_in_an_engines_own_options() -> None:
    assert options_for(EXACT, 0.25) == {}
    assert options_for(SPARSE, 0.25) == {"groups": 0.25}
    assert options_for("sparf", 1) == {"r": 1.0, "k": 1.0}
    assert options_for("channel_groups", 0.5) == {"r": 0.5, "groups": 0.5}


def test_options_reach_the_engine() -> None:
    engine = make_engine("sparf", {"r": 16, "k": 64, "local_k": 8})
    assert isinstance(engine, SparFEngine)
    assert (engine.r, engine.k, engine.local_k) == (16, 64, 8)
    engine = make_engine(SPARSE)
    assert isinstance(engine, GroupMassEngine)
    assert engine.groups == 1 / 8
    assert GroupMassEngine(1).groups == 1.0  # everything, not one group


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fast", {}, "attention engine 'fast' is unknown; choose one of channel_groups, dense"),
        ("group_mass", {"groups": 0.0}, r"the share of groups is 0\.0"),
        ("group_mass", {"k": 16}, "'group_mass' has no option 'k'; it has groups, ranges"),
        ("dense", {"k": 16}, "'dense' has no option 'k'; it has none"),
        ("sparf", {"r": 0}, "r is 0"),
    ],
)
def test_bad_options(name: str, options: Mapping[str, float], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        make_engine(name, options)
