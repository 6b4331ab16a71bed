from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from offload.attention.partial import (
    PartialAttention,
    add_sink,
    attend_all,
    attend_by_definition,
    attend_causal,
    attend_masked,
    merge,
)

SCALE = 0.3
CLOSE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def make(heads: int, kv_heads: int, queries: int, tokens: int, dim: int = 8, seed: int = 0) -> tuple[Tensor, ...]:
    """query [heads, queries, dim]; keys and values [tokens, kv_heads, dim], strided as in an arena."""
    generator = torch.Generator().manual_seed(seed)
    arena = torch.randn(tokens, 2, kv_heads, dim, generator=generator)
    return torch.randn(heads, queries, dim, generator=generator), arena[:, 0], arena[:, 1]


def by_definition(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, is_causal: bool = False
) -> PartialAttention:
    """The oracle, with every query head beside the KV head that it shares."""
    share = query.shape[0] // keys.shape[1]
    per_head = [
        attend_by_definition(
            query[h], keys[:, h // share], values[:, h // share], SCALE, is_causal=is_causal, mask=mask
        )
        for h in range(query.shape[0])
    ]
    return PartialAttention(torch.stack([o for o, _ in per_head]), torch.stack([s for _, s in per_head]))


def assert_close(found: PartialAttention, expected: PartialAttention) -> None:
    """Outputs of queries that see nothing do not count."""
    close = CLOSE[found.output.dtype]
    torch.testing.assert_close(found.logsumexp, expected.logsumexp, atol=10 * close, rtol=close)
    sees = expected.logsumexp > -torch.inf
    torch.testing.assert_close(found.output[sees], expected.output[sees], atol=close, rtol=close)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize(("queries", "tokens"), [(1, 1), (1, 700), (5, 3), (130, 130)])
@pytest.mark.parametrize("dtype", CLOSE)
def test_every_query_sees_every_key(heads: int, kv_heads: int, queries: int, tokens: int, dtype: torch.dtype) -> None:
    query, keys, values = (t.to(dtype) for t in make(heads, kv_heads, queries, tokens))
    found = attend_all(query, keys, values, SCALE)
    assert (found.output.dtype, found.logsumexp.dtype) == (dtype, torch.float32)
    assert_close(found, by_definition(query, keys, values, None))


@pytest.mark.parametrize("tokens", [1, 2, 65, 300])
def test_causal(tokens: int) -> None:
    query, keys, values = make(6, 2, tokens, tokens)
    assert_close(attend_causal(query, keys, values, SCALE), by_definition(query, keys, values, None, is_causal=True))


def test_agrees_with_torch() -> None:
    """The oracle itself, against the function whose place we take."""
    query, keys, values = make(4, 4, 9, 9)
    expected = scaled_dot_product_attention(
        query, keys.transpose(0, 1), values.transpose(0, 1), is_causal=True, scale=SCALE
    )
    torch.testing.assert_close(by_definition(query, keys, values, None, is_causal=True).output, expected)


@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), queries=st.integers(1, 40), tokens=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_masked(seed: int, share: float, queries: int, tokens: int) -> None:
    query, keys, values = make(4, 2, queries, tokens, seed=seed)
    mask = torch.rand(queries, tokens, generator=torch.Generator().manual_seed(seed)) < share
    found = attend_masked(query, keys, values, SCALE, mask)
    assert_close(found, by_definition(query, keys, values, mask))
    assert not found.output.isnan().any()  # a NaN of a query that counts for nothing would spread through its values


@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 50), max_size=12),
    queries=st.integers(1, 6),
    scale=st.sampled_from([0.01, 1.0, 60.0]),
)
@settings(max_examples=60, deadline=None)
def test_merging_any_partition_is_attention_over_the_whole(
    seed: int, cuts: list[int], queries: int, scale: float
) -> None:
    """Parts of any size, one without keys and one of which a query sees nothing included, in any order."""
    query, keys, values = make(4, 2, queries, 50, seed=seed)
    query *= scale
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(queries, 50, generator=generator) < 0.8
    bounds = sorted({0, 50, *cuts})
    parts = [attend_masked(query, keys[a:b], values[a:b], SCALE, mask[:, a:b]) for a, b in pairwise(bounds)]
    parts.append(PartialAttention.of_nothing(query, 8))
    order = torch.randperm(len(parts), generator=generator).tolist()
    merged = merge([parts[i] for i in order])
    expected = by_definition(query, keys, values, mask)
    torch.testing.assert_close(merged.logsumexp, expected.logsumexp, atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(merged.output, expected.output, atol=3e-5, rtol=1e-4)


def test_merging_merged_parts() -> None:
    """As when parts are merged before there are too many of them."""
    query, keys, values = make(4, 2, 3, 90)
    parts = [attend_all(query, keys[i : i + 10], values[i : i + 10], SCALE) for i in range(0, 90, 10)]
    merged = merge([merge(parts[:4]), merge(parts[4:6]), *parts[6:]])
    assert_close(merged, by_definition(query, keys, values, None))


def test_merging_in_half_precision_is_done_in_float32() -> None:
    query, keys, values = (t.to(torch.bfloat16) for t in make(4, 2, 3, 90))
    parts = [attend_all(query, keys[i : i + 30], values[i : i + 30], SCALE) for i in range(0, 90, 30)]
    merged = merge(parts)
    assert merged.output.dtype == torch.float32
    whole = by_definition(query.float(), keys.float(), values.float(), None)
    torch.testing.assert_close(merged.output, whole.output, atol=1e-2, rtol=1e-2)


def test_nobody_sees_anything() -> None:
    query, keys, values = make(4, 2, 3, 5)
    nothing = attend_masked(query, keys, values, SCALE, torch.zeros(3, 5, dtype=torch.bool))
    merged = merge([nothing, nothing])
    assert not merged.output.any()
    assert (merged.logsumexp == -torch.inf).all()


def test_side_by_side() -> None:
    query, keys, values = make(4, 2, 5, 7)
    parts = [attend_all(query[:, :2], keys, values, SCALE), attend_all(query[:, 2:], keys, values, SCALE)]
    assert_close(PartialAttention.side_by_side(parts), by_definition(query, keys, values, None))


@pytest.mark.parametrize(("queries", "tokens"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_attend_to(queries: int, tokens: int) -> None:
    """The kernel divides by these numbers, and would take the process with it."""
    query, keys, values = make(4, 2, queries, tokens)
    part = attend_all(query, keys, values, SCALE)
    assert part.output.shape == (4, queries, 8)
    assert (part.logsumexp == -torch.inf).all()


def test_keys_and_values_of_different_width() -> None:
    query, keys, _ = make(4, 2, 3, 9)
    values = torch.randn(9, 2, 5)
    found = attend_causal(query[:, :, :], keys[:3], values[:3], SCALE)
    assert_close(found, by_definition(query, keys[:3], values[:3], None, is_causal=True))


def test_sink() -> None:
    """One more key that takes its share of the weight and whose value is zero."""
    query, keys, values = make(4, 2, 3, 9)
    sink = torch.tensor([-1.0, 0.0, 2.0, 30.0])
    found = add_sink(attend_all(query, keys, values, SCALE), sink)
    for head in range(4):
        scores = torch.cat([query[head] @ keys[:, head // 2].T * SCALE, sink[head].expand(3, 1)], 1)
        expected = scores.softmax(1)[:, :-1] @ values[:, head // 2]
        torch.testing.assert_close(found.output[head], expected)
        torch.testing.assert_close(found.logsumexp[head], scores.logsumexp(1))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
@pytest.mark.parametrize(("key_dim", "value_dim"), [(12, 8), (8, 12), (9, 3)])
def test_keys_and_values_of_different_widths(heads: int, kv_heads: int, key_dim: int, value_dim: int) -> None:
    """The kernel has one width; nobody notices."""
    query, keys, _ = make(heads, kv_heads, 5, 5, key_dim)
    *_, values = make(heads, kv_heads, 5, 5, value_dim, seed=1)
    mask = torch.rand(5, 5, generator=torch.Generator().manual_seed(2)) < 0.6
    for found, seen, is_causal in (
        (attend_all(query, keys, values, SCALE), None, False),
        (attend_causal(query, keys, values, SCALE), None, True),
        (attend_masked(query, keys, values, SCALE, mask), mask, False),
    ):
        assert found.output.shape == (heads, 5, value_dim)
        assert_close(found, by_definition(query, keys, values, seen, is_causal=is_causal))
