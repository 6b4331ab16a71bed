"""What a sequence in memory answers and which pages it says it read."""

import numpy as np
import pytest

from tests.tiers.csd.engines.kit import a_shape, pages_of, rows
from tiers.csd.memory_pages import MemoryPages
from tiers.csd.pages import Halves, KVShape, PageKind
from tiers.errors import InvalidOptionError


class Sums:
    """The sums of keys and of values."""

    vectors = 2

    def __call__(self, keys: Halves, values: Halves) -> Halves:
        return np.stack([keys.sum(axis=1), values.sum(axis=1)], axis=1)


def test_groups_and_their_pages() -> None:
    keys, values = rows(2, 40, 64), rows(2, 40, 64, seed=1)
    pages = pages_of(a_shape(2), keys, values)
    found = pages.key_groups(1, np.array([0, 2]))
    np.testing.assert_array_equal(found[0], keys[1, :16])
    np.testing.assert_array_equal(found[1, :8], keys[1, 32:])
    assert not found[1, 8:].any()
    np.testing.assert_array_equal(pages.value_groups(0, np.array([1, 2]))[0], values[0, 16:32])
    [(_, log)] = pages.log
    # Group 2 is not full: it waits in memory.
    assert log.tolist() == [[PageKind.KEY_GROUP, 1, 0], [PageKind.VALUE_GROUP, 0, 1]]


def test_channel_pages_are_whole_and_read_once() -> None:
    shape = KVShape(1, 1, 8, np.float32, tokens_per_group=4, channels_per_page=2)
    assert (shape.tokens_per_span, shape.pages_per_span) == (16, 4)
    keys = rows(1, 35, 8)
    pages = pages_of(shape, keys, keys)
    found = pages.key_channels(0, np.array([5, 0, 4]))
    np.testing.assert_array_equal(found, keys[0].T[[5, 0, 4]])
    # Channels 4 and 5 share a page; 32 of 35 tokens fill two spans.
    assert pages.log.pages("attend")[:, 2].tolist() == [0, 2, 4, 6]


def test_channels_in_an_order_of_their_own() -> None:
    shape = KVShape(1, 1, 8, np.float32, tokens_per_group=4, channels_per_page=2)
    keys = rows(1, 16, 8)
    order = np.array([[7, 3, 0, 1, 2, 4, 5, 6]])
    pages = pages_of(shape, keys, keys, channel_order=order)
    np.testing.assert_array_equal(pages.key_channels(0, np.array([3, 7])), keys[0].T[[3, 7]])
    assert pages.log.pages("attend")[:, 2].tolist() == [0]
    np.testing.assert_array_equal(pages.channel_order(0), order[0])


def test_appended_in_pieces_as_at_once() -> None:
    keys, values = rows(2, 70, 64), rows(2, 70, 64, seed=1)
    whole = pages_of(a_shape(2), keys, values, summary=Sums())
    pieces = MemoryPages(a_shape(2), summary=Sums())
    for first, last in ((0, 3), (3, 20), (20, 21), (21, 70)):
        pieces.append(keys[:, first:last], values[:, first:last])
    assert pieces.num_tokens == whole.num_tokens == 70
    groups = np.arange(5)
    np.testing.assert_array_equal(pieces.key_groups(1, groups), whole.key_groups(1, groups))
    np.testing.assert_array_equal(pieces.summaries(1), whole.summaries(1))
    assert whole.summaries(0).shape == (4, 2, 64)
    np.testing.assert_allclose(whole.summaries(0)[:, 0], keys[0, :64].reshape(4, 16, 64).sum(axis=1))
    np.testing.assert_allclose(pieces.value_sum(0), values[0].sum(axis=0), atol=1e-4)


def test_summaries_in_pages() -> None:
    pages = MemoryPages(a_shape(1), summary=Sums(), summary_pages=True)
    pages.append(rows(1, 160, 64), rows(1, 160, 64))
    pages.summaries(0)
    # 10 groups x 2 vectors of 64 numbers are 1.25 pages of 16 x 64.
    assert pages.log.pages("attend").tolist() == [[PageKind.SUMMARY, 0, 0], [PageKind.SUMMARY, 0, 1]]


def test_phases_keep_their_order() -> None:
    pages = pages_of(a_shape(1), rows(1, 64, 64), rows(1, 64, 64))
    pages.log.enter("select")
    pages.key_groups(0, np.array([0]))
    pages.log.enter("attend")
    pages.key_groups(0, np.array([1]))
    pages.log.enter("select")
    pages.key_groups(0, np.array([2]))
    assert [(name, read[:, 2].tolist()) for name, read in pages.log] == [("select", [0, 2]), ("attend", [1])]
    assert pages.log.num_pages == 3
    pages.log.clear()
    assert list(pages.log) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels_per_page": 3}, "channels_per_page 3 does not divide the head size 64"),
        ({"kv_heads": 0}, "kv_heads is 0"),
        ({"dtype": np.int8}, "pages of int8 are unknown"),
    ],
)
def test_shapes_that_do_not_divide(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        KVShape(**({"kv_heads": 1, "heads_per_kv": 1, "head_dim": 64} | fields))  # type: ignore[arg-type]
