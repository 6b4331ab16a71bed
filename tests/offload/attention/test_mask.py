from unittest.mock import patch

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offload.attention import mask as mask_module
from offload.attention.mask import QueryMask, attend_visible
from tests.offload.attention.test_partial import SCALE, assert_close, by_definition, make


def sees(mask: QueryMask, queries: int, position: int, tokens: int) -> Tensor:
    """[queries, tokens] in plain words: not after oneself, not out of the window, not padding."""
    return torch.tensor(
        [
            [
                key <= query
                and (mask.window is None or query - key < mask.window)
                and (mask.visible is None or bool(mask.visible[key]))
                for key in range(position, position + tokens)
            ]
            for query in range(mask.start, mask.start + queries)
        ]
    ).reshape(queries, tokens)


@st.composite
def cases(draw: st.DrawFn) -> tuple[QueryMask, int, int, int, int]:
    """A mask over a sequence, some queries in it and a run of keys."""
    total = draw(st.integers(1, 60))
    start = draw(st.integers(0, total - 1))
    queries = draw(st.integers(1, total - start))
    position = draw(st.integers(0, total - 1))
    tokens = draw(st.integers(1, total - position))
    window = draw(st.none() | st.integers(1, 70))
    hidden = draw(st.none() | st.lists(st.integers(0, total - 1), max_size=6))
    visible = None
    if hidden is not None:
        visible = torch.ones(total, dtype=torch.bool)
        visible[hidden] = False
    return QueryMask(start, window, visible), queries, position, tokens, draw(st.integers(0, 1000))


@given(cases())
@settings(max_examples=300, deadline=None)
def test_bits_say_who_sees_whom(case: tuple[QueryMask, int, int, int, int]) -> None:
    mask, queries, position, tokens, _ = case
    expected = sees(mask, queries, position, tokens)
    assert torch.equal(mask.bits(0, queries, position, tokens), expected)
    if mask.sees_all(queries, position, tokens):
        assert expected.all()
    if mask.is_plain(queries, position, tokens):
        assert torch.equal(expected, torch.ones(queries, tokens).tril().bool())
    begin, end = mask.reach(0, queries, position, tokens)
    assert not expected[:, : max(0, begin)].any()
    assert not expected[:, max(0, end) :].any()


@given(cases())
@settings(max_examples=150, deadline=None)
def test_attention_through_a_mask(case: tuple[QueryMask, int, int, int, int]) -> None:
    mask, queries, position, tokens, seed = case
    query, keys, values = make(4, 2, queries, tokens, seed=seed)
    found = attend_visible(query, keys, values, SCALE, mask, position)
    assert_close(found, by_definition(query, keys, values, sees(mask, queries, position, tokens)))
    assert not found.output.isnan().any()


@given(cases(), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_queries_a_stretch_at_a_time(case: tuple[QueryMask, int, int, int, int], stretch: int) -> None:
    mask, queries, position, tokens, seed = case
    query, keys, values = make(4, 2, queries, tokens, seed=seed)
    expected = by_definition(query, keys, values, sees(mask, queries, position, tokens))
    with patch.object(mask_module, "_STRETCH", stretch):
        assert_close(attend_visible(query, keys, values, SCALE, mask, position), expected)


def test_a_window_over_a_long_prompt() -> None:
    """Several real stretches, with all but the first few keys of each out of reach."""
    query, keys, values = make(2, 1, 700, 700)
    mask = QueryMask(0, 33)
    found = attend_visible(query, keys, values, SCALE, mask, 0)
    assert_close(found, by_definition(query, keys, values, mask.bits(0, 700, 0, 700)))
