"""How tokens are cut into pages."""

import numpy as np
import pytest

from tiers.csd.address import ADDRESS, AddressFields
from tiers.csd.layout import channel_pages, channels_in, group_pages, groups_in, shape_of
from tiers.csd.pages import KVShape, PageKind
from tiers.errors import InvalidOptionError


def shape(head_dim: int, dtype: str = "float16", page_nbytes: int = 4096, max_tokens: int = 4096) -> KVShape:
    return shape_of(
        kv_heads=2, heads_per_kv=1, head_dim=head_dim, dtype=dtype, page_nbytes=page_nbytes, max_tokens=max_tokens
    )


@pytest.mark.parametrize(
    ("head_dim", "dtype", "page_nbytes", "tokens_per_group"),
    [(128, "float16", 4096, 16), (64, "float16", 4096, 32), (128, "float32", 4096, 8), (128, "float16", 16384, 64)],
)
def test_a_group_fills_a_page(head_dim: int, dtype: str, page_nbytes: int, tokens_per_group: int) -> None:
    found = shape(head_dim, dtype, page_nbytes)
    assert (found.tokens_per_group, found.page_bytes) == (tokens_per_group, page_nbytes)


@pytest.mark.parametrize(("max_tokens", "channels", "span"), [(512, 8, 256), (2048, 4, 512), (4096, 2, 1024)])
def test_long_contexts_put_fewer_channels_into_a_page(max_tokens: int, channels: int, span: int) -> None:
    """2,048 entries of half precision: the range of the paper, 256 to 1,024 tokens of each channel."""
    found = shape(128, max_tokens=max_tokens)
    assert (found.channels_per_page, found.tokens_per_span) == (channels, span)


@pytest.mark.parametrize(("head_dim", "message"), [(80, "160 bytes a token do not divide"), (1, "no divisor")])
def test_head_sizes_that_do_not_divide(head_dim: int, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        shape(head_dim)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_pages_hold_what_went_in(dtype: str) -> None:
    found = shape(64, dtype, max_tokens=256)
    rows = np.random.default_rng(0).standard_normal((2, 2 * found.tokens_per_span, 64)).astype(dtype)
    groups = group_pages(found, rows)
    assert groups.shape == (2, 2 * found.pages_per_span, 4096)
    assert np.array_equal(groups_in(found, groups[1]).reshape(-1, 64), rows[1])
    channels = channels_in(found, channel_pages(found, rows)[1])
    for channel in (0, 9, 63):
        page, place = divmod(channel, found.channels_per_page)
        assert np.array_equal(channels[page :: found.pages_per_span, place].reshape(-1), rows[1, :, channel])


def test_addresses_come_back() -> None:
    fields = ADDRESS.unpack(
        ADDRESS.pack(
            task=1023, sequence=77, layer=39, kind=PageKind.KEY_CHANNELS, head=np.array([[3], [255]]), page=np.arange(4)
        )
    )
    assert {name: int(fields[name][1, 3]) for name in fields} == {
        "task": 1023, "sequence": 77, "layer": 39, "kind": 2, "head": 255, "page": 3,
    }  # fmt: skip
    for wrong in ({"task": 1024}, {"layer": -1}):
        with pytest.raises(InvalidOptionError, match="is not addressable"):
            ADDRESS.check(**wrong)
    with pytest.raises(InvalidOptionError, match="63 bits"):
        AddressFields(task=9)
