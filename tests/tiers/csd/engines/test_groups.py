"""Engines that choose whole groups."""

import numpy as np
import pytest

from tests.contracts.attention_engine import EngineContract
from tests.tiers.csd.engines.kit import Rows, a_shape, by_torch, pages_of, rows
from tiers.csd.engines.base import AttentionEngine
from tiers.csd.engines.channel_groups import ChannelGroupsEngine
from tiers.csd.engines.channels import learn_channel_order
from tiers.csd.engines.group_bounds import GroupBoundsEngine
from tiers.csd.engines.group_mass import GroupMassEngine
from tiers.csd.engines.group_range import GroupRange, expected_range, group_mass_terms, mass_terms, score_bounds
from tiers.csd.pages import PageKind
from tiers.errors import InvalidOptionError


class TestChannelGroups(EngineContract):
    def make(self, compression: float) -> AttentionEngine:
        return ChannelGroupsEngine(compression, compression)


class TestChannelGroupsByChannel(EngineContract):
    def make(self, compression: float) -> AttentionEngine:
        return ChannelGroupsEngine(compression, compression, whole_pages=False)


class TestGroupBounds(EngineContract):
    def make(self, compression: float) -> AttentionEngine:
        return GroupBoundsEngine(compression)


class TestGroupMass(EngineContract):
    def make(self, compression: float) -> AttentionEngine:
        return GroupMassEngine(compression)


class TestGroupMassOfParts(EngineContract):
    def make(self, compression: float) -> AttentionEngine:
        return GroupMassEngine(compression, ranges=2)


def test_bounds_read_their_share_of_the_groups() -> None:
    engine = GroupBoundsEngine(0.125)
    pages = pages_of(a_shape(), rows(3, 1030, 64), rows(3, 1030, 64), summary=engine.summary)
    engine.attend(rows(9, 64), pages)
    [(name, read)] = pages.log
    assert name == "groups"
    for kind in (PageKind.KEY_GROUP, PageKind.VALUE_GROUP):
        assert (read[:, 0] == kind).sum() == 3 * 64 // 8


def test_more_keys_than_values_within_the_budget() -> None:
    """Values only of groups whose keys were read, and together as many pages as the share says."""
    engine = GroupMassEngine(0.125)
    pages = pages_of(a_shape(), rows(3, 1030, 64), rows(3, 1030, 64), summary=engine.summary)
    engine.attend(rows(9, 64), pages)
    [(first, keys), (second, values)] = pages.log
    assert (first, second) == ("keys", "values")
    assert (len(keys), len(values)) == (32, 16)
    assert len(keys) + len(values) == 2 * 3 * 64 // 8
    assert {tuple(page[1:]) for page in values.tolist()} < {tuple(page[1:]) for page in keys.tolist()}


def test_heads_share_one_budget() -> None:
    """A head whose query finds nothing leaves its share to one that attends widely."""
    keys, values = rows(2, 1024, 64, clustered=True) * 0.1, rows(2, 1024, 64, seed=1)
    query = rows(2, 64, seed=2)
    keys[1, 1008:] += 8 * query[1]
    engine = GroupMassEngine(0.25)
    pages = pages_of(a_shape(2, 1), keys, values, summary=engine.summary)
    engine.attend(query, pages)
    heads = pages.log.pages("keys")[:, 1].tolist()
    assert (heads.count(0), heads.count(1)) == (41, 2)  # the first and the newest are always read


def test_what_is_alike_need_not_be_read() -> None:
    """Where the tokens of a group have one key and one value, the estimate of its weight and value is exact."""
    keys, values = (np.repeat(rows(3, 64, 64, seed=seed), 16, axis=1) for seed in (0, 1))
    query, engine = rows(9, 64, seed=2), GroupMassEngine(1 / 16)
    found = engine.attend(query, pages_of(a_shape(), keys, values, summary=engine.summary))
    output, logsumexp = by_torch(query, keys, values)
    np.testing.assert_allclose(found.output, output, atol=1e-4)
    np.testing.assert_allclose(found.logsumexp, logsumexp, atol=1e-4)


def test_estimates_beat_bounds_for_the_same_pages() -> None:
    keys, values = rows(3, 2048, 64, clustered=True), rows(3, 2048, 64, seed=1)
    query = rows(9, 64, seed=2)
    output, logsumexp = by_torch(query, keys, values)
    errors = {}
    for engine in (GroupMassEngine(0.125), GroupBoundsEngine(0.125)):
        pages = pages_of(a_shape(), keys, values, summary=engine.summary)
        found = engine.attend(query, pages)
        errors[type(engine)] = np.linalg.norm(found.output - output), np.abs(found.logsumexp - logsumexp).max()
    assert errors[GroupMassEngine][0] < 0.5 * errors[GroupBoundsEngine][0]
    assert errors[GroupMassEngine][1] < 0.5


def test_no_key_scores_above_its_bound() -> None:
    keys, query = rows(40, 16, 64), rows(3, 64, seed=2)
    scores = np.einsum("hd,gtd->hgt", query, keys).max(axis=2)
    assert (score_bounds(query, keys.min(axis=1), keys.max(axis=1)) >= scores).all()


@pytest.mark.parametrize(("draws", "expected"), [(1, np.inf), (2, 1.128), (5, 2.326), (16, 3.532), (25, 3.931)])
def test_expected_range(draws: int, expected: float) -> None:
    assert expected_range(draws) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("size", "most"), [(0.1, 0.01), (0.5, 0.05), (1.0, 0.15), (3.0, 1.5)])
def test_masses_of_normal_keys_are_right_on_average(size: float, most: float) -> None:
    """From flat weights to those of which one token has nearly all."""
    keys, query = rows(2000, 16, 64), rows(1, 64, seed=2)
    query *= size / np.linalg.norm(query)
    masses = np.log(np.exp(np.einsum("hd,gtd->hgt", query, keys)).sum(axis=2))
    middle, added = mass_terms(query, keys.min(axis=1), keys.max(axis=1), 16)
    assert abs((middle + added - masses).mean()) < most


def test_what_is_kept_of_a_group() -> None:
    keys, values = rows(5, 16, 64), rows(5, 16, 64, seed=1)
    kept = GroupRange()(keys.astype(np.float16), values.astype(np.float16))
    assert kept.shape == (5, GroupRange().vectors, 64)
    assert kept.dtype == np.float16
    np.testing.assert_allclose(kept[:, 0], keys.min(axis=1), atol=2e-3)
    np.testing.assert_allclose(kept[:, 2], values.mean(axis=1), atol=2e-3)


def test_a_learnt_order_of_channels_saves_pages() -> None:
    """Queries that always look at every fourth channel find these on a quarter of the pages."""
    magnitudes = np.where(np.arange(64) % 4 == 0, 3.0, 0.1).astype(np.float32)
    queries = rows(50, 1, 64) * 0.1 + magnitudes
    order = learn_channel_order(queries)
    keys, values = rows(1, 512, 64), rows(1, 512, 64, seed=1)
    engine = ChannelGroupsEngine(16, 0.125, whole_pages=False)
    counts = []
    for channel_order in (None, order[None]):
        pages = pages_of(a_shape(1, 1), keys, values, channel_order=channel_order)
        engine.attend(queries[0], pages)
        counts.append(len(pages.log.pages("channels")))
    assert counts == [2 * 16, 2 * 4]


def test_whole_pages_read_as_many_channels_as_asked_for() -> None:
    pages = pages_of(a_shape(1, 1), rows(1, 512, 64), rows(1, 512, 64))
    ChannelGroupsEngine(9, 0.125).attend(rows(1, 64), pages)
    assert len(pages.log.pages("channels")) == 2 * 3


def test_ranges_of_parts_of_a_group() -> None:
    """Two for 16 tokens are those of two groups of 8, whose weights add up."""
    keys, values, query = rows(7, 16, 64), rows(7, 16, 64, seed=1), 0.1 * rows(3, 64, seed=2)
    kept = GroupRange(2)(keys, values)
    assert kept.shape == (7, GroupRange(2).vectors, 64)
    halves = GroupRange()(keys.reshape(14, 8, 64), values.reshape(14, 8, 64))
    for whole, parts in zip(_masses(query, kept, 16), _masses(query, halves, 8).reshape(2, 3, 7, 2), strict=True):
        np.testing.assert_allclose(np.exp(whole), np.exp(parts).sum(axis=2), rtol=1e-4)
    with pytest.raises(InvalidOptionError, match="3 ranges do not divide a group of 16 tokens"):
        GroupRange(3)(keys, values)
    with pytest.raises(InvalidOptionError, match="the number of ranges is 0"):
        GroupMassEngine(ranges=0)


def _masses(query: Rows, kept: Rows, per_group: int) -> Rows:
    """The first term, and both together."""
    middle, added = group_mass_terms(query, kept, per_group)
    return np.stack([middle, middle + added])


@pytest.mark.parametrize("engine", [GroupMassEngine, GroupBoundsEngine])
@pytest.mark.parametrize("share", [0.0, 1.5])
def test_shares_out_of_range(engine: type[GroupMassEngine], share: float) -> None:
    with pytest.raises(InvalidOptionError, match="the share of groups is"):
        engine(share)
