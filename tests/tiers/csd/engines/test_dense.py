"""Dense attention over pages against torch."""

import numpy as np
import pytest
from numpy.typing import DTypeLike

from tests.tiers.csd.engines.kit import a_shape, by_torch, pages_of, rows
from tiers.csd.engines.dense import DenseEngine
from tiers.csd.engines.merge import merge
from tiers.csd.memory_pages import MemoryPages

TOLERANCE: dict[DTypeLike, float] = {np.float16: 2e-3, np.float32: 1e-5}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("kv_heads", "heads_per_kv"), [(3, 3), (4, 1), (1, 8)])
@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 2500])
def test_equals_torch(dtype: DTypeLike, kv_heads: int, heads_per_kv: int, num_tokens: int) -> None:
    shape = a_shape(kv_heads, heads_per_kv, 64, dtype)
    keys, values = rows(kv_heads, num_tokens, 64), rows(kv_heads, num_tokens, 64, seed=1)
    query = rows(shape.heads, 64, seed=2) * 2
    found = DenseEngine().attend(query, pages_of(shape, keys, values))
    output, logsumexp = by_torch(query, keys, values)
    np.testing.assert_allclose(found.output, output, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(found.logsumexp, logsumexp, rtol=0, atol=TOLERANCE[dtype])


def test_reads_every_page_once() -> None:
    shape = a_shape(2, 1)
    pages = pages_of(shape, rows(2, 2500, 64), rows(2, 2500, 64))
    DenseEngine().attend(rows(2, 64), pages)
    [(_, read)] = pages.log
    expected = {(kind, head, page) for kind in (0, 1) for head in range(2) for page in range(2500 // 16)}
    assert len(read) == len(expected)
    assert {tuple(map(int, page)) for page in read} == expected


def test_nothing_to_attend_to() -> None:
    found = DenseEngine().attend(rows(9, 64), MemoryPages(a_shape()))
    assert not found.output.any()
    assert np.isneginf(found.logsumexp).all()


def test_scores_of_any_size_do_not_overflow() -> None:
    shape = a_shape(1, 1)
    keys, values = rows(1, 40, 64) * 1e3, rows(1, 40, 64)
    query = rows(1, 64) * 1e3
    found = DenseEngine().attend(query, pages_of(shape, keys, values))
    np.testing.assert_allclose(found.output, by_torch(query, keys, values)[0], atol=1e-5)


def test_the_host_merges_what_it_still_holds() -> None:
    """The drive has the older tokens, the host the newest, and a third part has none."""
    shape = a_shape()
    keys, values, query = rows(3, 200, 64), rows(3, 200, 64, seed=1), rows(9, 64, seed=2)
    parts = [
        DenseEngine().attend(query, pages_of(shape, keys[:, part], values[:, part]))
        for part in (slice(0, 190), slice(190, 200), slice(0, 0))
    ]
    found = merge(parts)
    output, logsumexp = by_torch(query, keys, values)
    np.testing.assert_allclose(found.output, output, atol=1e-5)
    np.testing.assert_allclose(found.logsumexp, logsumexp, atol=1e-5)
    nothing = merge(parts[2:])
    assert not nothing.output.any()
    assert np.isneginf(nothing.logsumexp).all()
