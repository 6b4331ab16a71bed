"""Where pages of a layer lie, and which of them a step touches."""

from dataclasses import replace

import numpy as np
import pytest

from simulators.flash.drive import DriveParameters
from simulators.flash.timing import PagesTouched
from simulators.model_costs import read_model_shape
from simulators.published import find_published
from simulators.serving.kv_pages import KVPages, flushed_per_step, pages_of
from simulators.serving.selection import ClusteredSelection, WholeGroups
from tiers.errors import InvalidOptionError

DRIVE = DriveParameters()
OPT = read_model_shape(find_published("models", "opt-13b"))


def _pages(jobs: int = 40, max_tokens: int = 2048, drive: DriveParameters = DRIVE) -> KVPages:
    return KVPages(drive, head_dim=128, heads_per_kv=1, jobs=jobs, max_tokens=max_tokens)


def _numbers(pages: PagesTouched) -> set[tuple[int, int, int]]:
    assert pages.row is not None
    return set(zip(*(np.asarray(part).tolist() for part in (pages.channel, pages.die, pages.row)), strict=True))


def test_the_published_layout() -> None:
    """16 tokens a page; of the channel copy 2 channels of 1,024 tokens, or 4 of 512 where contexts are shorter."""
    assert (_pages().tokens_per_group, _pages().channels_per_page, _pages().tokens_per_span) == (16, 4, 512)
    assert (_pages(max_tokens=4096).channels_per_page, _pages(max_tokens=4096).tokens_per_span) == (2, 1024)
    assert _pages(max_tokens=64).channels_per_page == 8
    # Three copies of half the cache each: K, V, and K by channels.
    assert _pages().num_pages(1024) * 4096 == 1.5 * 1024 * 512
    assert _pages().num_pages(1023) == 2 * 63 + 32
    assert flushed_per_step(_pages(), is_twice=True) * 512 == pytest.approx(_pages().num_pages(512))


def test_dense_attention_touches_every_full_page_of_keys_and_values_once() -> None:
    keys, values = _pages().dense(1000)
    assert keys.pages.num_pages == values.pages.num_pages == 40 * 62
    assert len(_numbers(keys.pages) | _numbers(values.pages)) == 2 * 40 * 62
    assert keys.work.flops == 2 * 40 * 1000 * 128
    assert keys.work.dram_nbytes == 40 * 8 * 256


def test_sparse_attention_touches_what_is_picked() -> None:
    selection = ClusteredSelection()
    estimate, keys, values = _pages().sparse(1536, selection)
    groups = selection.groups(40, 1536, 16).sum()
    assert estimate.pages.num_pages == 3 * selection.channel_pages(40, 128, 4).sum()
    assert keys.pages.num_pages == values.pages.num_pages == groups
    everything = [_numbers(phase.pages) for phase in (estimate, keys, values)]
    assert len(set.union(*everything)) == sum(len(part) for part in everything)
    # Nothing picked twice as densely reads everything, and then the copy besides.
    estimate, keys, values = _pages().sparse(1536, replace(selection, channels=128, token_share=1.0))
    assert keys.pages.num_pages + values.pages.num_pages == _pages().dense(1536)[0].pages.num_pages * 2
    assert estimate.pages.num_pages == 40 * 3 * 32


def test_whole_groups_are_read_in_the_share_asked_for() -> None:
    """Two thirds of the pages are of K, one third of V of the same groups; summaries come from the device's memory."""
    estimate, keys, values = _pages().whole_groups(1536, WholeGroups(share=0.25))
    assert estimate.pages.num_pages == 0
    assert estimate.work.dram_nbytes == 40 * 96 * 3 * 128 * 2
    assert keys.pages.num_pages + values.pages.num_pages == 2 * 40 * 96 // 4
    assert keys.pages.num_pages == 2 * values.pages.num_pages
    assert not _numbers(keys.pages) & _numbers(values.pages)
    everything = _pages().whole_groups(1536, WholeGroups(share=1.0, keys_per_page=1.0))
    assert [phase.pages.num_pages for phase in everything] == [0, 40 * 96, 40 * 96]
    with pytest.raises(InvalidOptionError, match=r"the share of groups is 0.0; it has to be above 0"):
        WholeGroups(share=0.0)


def test_pages_are_striped_over_channels_then_dies() -> None:
    touched = _pages().touched(np.arange(8 * 16 * 2))
    channel, die, row = (np.asarray(part) for part in (touched.channel, touched.die, touched.row))
    assert channel[:9].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    assert (die[7], die[8], die[127], die[128]) == (0, 1, 15, 0)
    assert (row[127], row[128]) == (0, 1)
    together = _pages(drive=replace(DRIVE, pages_per_sense=4)).touched(np.arange(5))
    assert np.asarray(together.channel).tolist() == [0, 0, 0, 0, 1]


def test_heads_are_split_over_drives() -> None:
    assert pages_of(DRIVE, OPT, 64, 1, 2048).jobs == 64 * 40
    assert pages_of(DRIVE, OPT, 64, 20, 2048).jobs == 64 * 2
    with pytest.raises(InvalidOptionError, match="40 KV heads cannot be split evenly over 3 drives"):
        pages_of(DRIVE, OPT, 64, 3, 2048)
    with pytest.raises(InvalidOptionError, match="160 bytes of a token and head do not divide pages of 4096 bytes"):
        KVPages(DRIVE, head_dim=80, heads_per_kv=1, jobs=1, max_tokens=64)
