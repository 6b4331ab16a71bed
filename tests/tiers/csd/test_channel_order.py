"""The channel index in an order that the drive learnt: the same answers from fewer pages."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiers.csd.kit import BY_CHANNELS, SMALL, Tokens, attend, is_right, open_store, tokens, write
from tests.tiers.csd.test_store import KEY, ROOMY, holds
from tiers.csd.channel_order import QUERIES, ChannelLearner
from tiers.csd.commands import Attend, Inspect, Reclaim
from tiers.csd.layer_pages import LayerPages
from tiers.csd.page_log import PageLog
from tiers.csd.store import DriveStore

LOUD = np.array([3, 11, 19, 27, 35, 43, 51, 59])
"""Channels in which queries are large, each in another page of the natural order."""


def made(n: int) -> Tokens:
    found = tokens(n)
    query = found.query.copy()
    query[:, LOUD] *= 50
    return replace(found, query=query)


def idle(store: DriveStore) -> None:
    while store.work():
        store.check()


def pages_of(store: DriveStore) -> LayerPages:
    return LayerPages(store._layers[KEY], PageLog())


@pytest.mark.parametrize("dram_nbytes", [1 << 20, 110_000])
def test_the_first_queries_decide(tmp_path: Path, dram_nbytes: int) -> None:
    """Until there are enough of them no channel is written; then a prompt's are, a span whenever there is time."""
    one = made(500)
    with closing(open_store(tmp_path / "image", replace(ROOMY, dram_nbytes=dram_nbytes))) as store:
        store.configure(BY_CHANNELS)
        store.write_kv(write(one, 0, 300))
        idle(store)
        layer = store._layers[KEY]
        for token in range(300, 300 + QUERIES):
            assert layer.channel_order is None
            assert not layer.num_in_channel_index
            assert is_right(store.attend(attend(one, token)).output[0], one, token + 1)
        assert store.work()
        assert layer.num_in_channel_index == 128
        assert is_right(store.attend(attend(one, 300 + QUERIES)).output[0], one, 301 + QUERIES)
        idle(store)
        assert layer.num_in_channel_index == 256
        assert layer.channel_order is not None
        for head in range(2):
            assert set(pages_of(store).channel_order(head)[: LOUD.size]) == set(LOUD)
        holds(store, one, 301 + QUERIES)
        store.write_kv(write(one, 301 + QUERIES, 490))
        for token in range(490, 500):
            assert is_right(store.attend(attend(one, token)).output[0], one, token + 1)
            store.work()
        assert layer.num_in_channel_index == 384
        holds(store, one, 500)
        pages = pages_of(store)
        pages.key_channels(0, LOUD)
        spans, rest = 384 // 128, (500 - 384) // 16
        assert pages.log.num_pages == spans + (0 if layer.is_wide else rest)


def test_the_order_survives(tmp_path: Path) -> None:
    """The drive's process, but not its sequence."""
    one = made(400)
    store = open_store(tmp_path / "image")
    store.configure(BY_CHANNELS)
    store.write_kv(write(one, 0, 200))
    for token in range(200, 210):
        store.attend(attend(one, token))
    idle(store)
    order = store._flash.orders[KEY]
    store._image.close()
    with closing(open_store(tmp_path / "image")) as again:
        assert again.inspect(Inspect(1, 0)).num_tokens == (208, 0)
        assert np.array_equal(again._flash.orders[KEY], order)
        holds(again, one, 208)
        again.write_kv(write(one, 208, 400))
        idle(again)
        holds(again, one, 400)
        again.reclaim(Reclaim(1))
        assert not again._flash.orders
        again.write_kv(write(one, 0, 20))
        assert again._layers[KEY].channel_order is None


def test_an_attend_in_full_teaches_nothing(tmp_path: Path) -> None:
    one = made(200)
    with closing(open_store(tmp_path / "image")) as store:
        store.configure(BY_CHANNELS)
        store.write_kv(write(one, 0, 200))
        for _ in range(2 * QUERIES):
            store.attend(Attend(1, 0, np.array([0]), np.array([200]), one.query[None], in_full=True))
        idle(store)
        assert not store._layers[KEY].num_in_channel_index


def test_what_is_learnt_from_is_in_the_drives_memory(tmp_path: Path) -> None:
    one = made(20)
    used = []
    for name, config in (("natural", replace(BY_CHANNELS, engine="dense", engine_options={})), ("learnt", BY_CHANNELS)):
        with closing(open_store(tmp_path / name, SMALL)) as store:
            store.configure(config)
            store.write_kv(write(one, 0, 20))
            shape = store.shape_of(1)[1]
            used.append(store.health().memory_used_nbytes)
            store.reclaim(Reclaim(1))
            assert store.health().memory_used_nbytes == SMALL.table_nbytes
    assert used[1] - used[0] == ChannelLearner.nbytes(shape)
