"""What every attention engine of the drive promises, whatever it chooses to read.

Inherit from ``EngineContract`` and supply ``make``: an engine that reads the share ``compression``.
"""

from abc import ABC, abstractmethod

import numpy as np
import pytest
from numpy.typing import DTypeLike

from tests.tiers.csd.engines.kit import a_shape, by_torch, pages_of, rows
from tiers.csd.engines.base import AttentionEngine
from tiers.csd.engines.merge import merge
from tiers.csd.memory_pages import MemoryPages


class EngineContract(ABC):
    @abstractmethod
    def make(self, compression: float) -> AttentionEngine: ...

    @pytest.mark.parametrize("num_tokens", [1, 16, 37, 700])
    @pytest.mark.parametrize(("kv_heads", "heads_per_kv"), [(3, 3), (4, 1)])
    def test_is_exact_where_it_reads_everything(self, num_tokens: int, kv_heads: int, heads_per_kv: int) -> None:
        engine, shape = self.make(1.0), a_shape(kv_heads, heads_per_kv)
        keys, values = rows(kv_heads, num_tokens, 64), rows(kv_heads, num_tokens, 64, seed=1)
        query = rows(shape.heads, 64, seed=2)
        found = engine.attend(query, pages_of(shape, keys, values, summary=engine.summary))
        output, logsumexp = by_torch(query, keys, values)
        np.testing.assert_allclose(found.output, output, atol=1e-5)
        np.testing.assert_allclose(found.logsumexp, logsumexp, atol=1e-4)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_pages_in_either_precision(self, dtype: DTypeLike) -> None:
        engine, shape = self.make(0.25), a_shape(dtype=dtype)
        keys, values = rows(3, 300, 64, clustered=True), rows(3, 300, 64, seed=5)
        found = engine.attend(rows(9, 64, seed=2), pages_of(shape, keys, values, summary=engine.summary))
        assert found.output.dtype == found.logsumexp.dtype == np.float32
        assert found.output.shape == (9, 64)
        assert np.isfinite(found.output).all()

    def test_nothing_to_attend_to(self) -> None:
        engine = self.make(0.125)
        found = engine.attend(rows(9, 64), MemoryPages(a_shape(), summary=engine.summary))
        assert not found.output.any()
        assert np.isneginf(found.logsumexp).all()

    def test_a_query_of_zeros(self) -> None:
        """All scores are alike: the mean of V, and the logarithm of the number of tokens."""
        engine = self.make(0.125)
        keys, values = rows(3, 320, 64), rows(3, 320, 64, seed=1)
        query = np.zeros((9, 64), np.float32)
        found = engine.attend(query, pages_of(a_shape(), keys, values, summary=engine.summary))
        assert np.isfinite(found.output).all()
        assert (found.logsumexp <= np.log(320) + 1e-3).all()

    def test_is_the_same_twice(self) -> None:
        engine = self.make(0.25)
        pages = pages_of(a_shape(), rows(3, 500, 64), rows(3, 500, 64, seed=1), summary=engine.summary)
        query = rows(9, 64, seed=2)
        first, second = engine.attend(query, pages), engine.attend(query, pages)
        np.testing.assert_array_equal(first.output, second.output)
        np.testing.assert_array_equal(first.logsumexp, second.logsumexp)

    def test_what_is_in_memory_costs_no_page(self) -> None:
        engine = self.make(1.0)
        pages = pages_of(a_shape(), rows(3, 15, 64), rows(3, 15, 64), summary=engine.summary)
        engine.attend(rows(9, 64), pages)
        assert pages.log.num_pages == 0

    def test_takes_part_in_a_merge(self) -> None:
        """The host's newest tokens, which match the query well, take their part of the weight."""
        engine, shape = self.make(0.5), a_shape()
        keys, values = rows(3, 400, 64, clustered=True), rows(3, 400, 64, seed=1)
        query = rows(9, 64, seed=2)
        keys[:, 390:] = 2 * query.reshape(3, 3, 64).mean(axis=1)[:, None]
        older = engine.attend(query, pages_of(shape, keys[:, :390], values[:, :390], summary=engine.summary))
        newest = by_torch(query, keys[:, 390:], values[:, 390:])
        found = merge([older, type(older)(*newest)])
        output, _ = by_torch(query, keys, values)
        assert np.linalg.norm(found.output - output) < 0.5 * np.linalg.norm(older.output - output)
