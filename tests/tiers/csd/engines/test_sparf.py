"""SparF against an independent SparQ, written down from the formulas of the paper."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.contracts.attention_engine import EngineContract
from tests.tiers.csd.engines.kit import Rows, a_shape, pages_of, rows
from tiers.csd.engines.channels import approximate_scores, top_channels
from tiers.csd.engines.sparf import SparFEngine
from tiers.csd.pages import PageKind
from tiers.errors import InvalidOptionError


def sparq(q: Rows, kept_keys: Rows, kept_values: Rows, r: int, k: int, local_k: int) -> tuple[Tensor, Tensor]:
    """Tokens and output of one KV head: query [heads_per_kv, dim], keys and values [tokens, dim]."""
    query, keys, values = (torch.from_numpy(part) for part in (q, kept_keys, kept_values))
    dim, num_tokens = query.shape[1], keys.shape[0]
    channels = query.abs().sum(0).topk(r).indices
    temperature = (dim * query[:, channels].abs().sum(1) / query.abs().sum(1)).sqrt()
    approximate = query[:, channels] @ keys[:, channels].T / temperature[:, None]
    age = torch.arange(num_tokens - 1, -1, -1)
    ranked = approximate.masked_fill(age < local_k + 1, torch.finfo(torch.float32).max).sum(0)
    tokens = ranked.topk(min(k + 1, num_tokens)).indices
    alpha = approximate.softmax(1)[:, tokens].sum(1, keepdim=True)
    exact = (query @ keys[tokens].T / dim**0.5).softmax(1)
    return tokens, alpha * (exact @ values[tokens]) + (1 - alpha) * values.mean(0)


CASES = list(itertools.product([4, 16, 64], [16, 64, 128], [0, 16], [(3, 3), (4, 1)], [700, 90]))


@pytest.mark.parametrize(("r", "k", "local_k", "heads", "num_tokens"), CASES)
def test_chooses_and_answers_as_sparq(r: int, k: int, local_k: int, heads: tuple[int, int], num_tokens: int) -> None:
    kv_heads, heads_per_kv = heads
    shape = a_shape(kv_heads, heads_per_kv)
    keys, values = rows(kv_heads, num_tokens, 64, clustered=True), rows(kv_heads, num_tokens, 64, seed=7)
    query = rows(shape.heads, 64, seed=2)
    pages = pages_of(shape, keys, values)
    engine = SparFEngine(r, k, local_k)
    found = engine.attend(query, pages)
    by_head = query.reshape(kv_heads, heads_per_kv, 64)
    read = pages.log.pages("tokens")
    for head in range(kv_heads):
        tokens, output = sparq(by_head[head], keys[head], values[head], r, k, local_k)
        scores = approximate_scores(by_head[head], pages, head, top_channels(by_head[head], r))
        assert engine.choose(scores).tolist() == sorted(tokens.tolist())
        np.testing.assert_allclose(found.output[head * heads_per_kv :][:heads_per_kv], output, atol=1e-3)
        groups = sorted({token // 16 for token in tokens.tolist()} - {num_tokens // 16})
        for kind in (PageKind.KEY_GROUP, PageKind.VALUE_GROUP):
            assert read[(read[:, 0] == kind) & (read[:, 1] == head), 2].tolist() == groups


def test_reads_only_pages_of_its_channels() -> None:
    pages = pages_of(a_shape(1, 1), rows(1, 512, 64), rows(1, 512, 64))
    query = np.zeros((1, 64), np.float32)
    query[0, [3, 10, 11]] = 1, -2, 3
    SparFEngine(3, 64).attend(query, pages)
    # 4 channels share a page: channel 3 is in the first, 10 and 11 in the third; 256 tokens fill a span of 16 pages.
    assert pages.log.pages("channels").tolist() == [[PageKind.KEY_CHANNELS, 0, page] for page in (0, 2, 16, 18)]


def _mass(query: Rows, keys: Rows) -> Rows:
    total: Rows = np.exp(query @ keys.T / 8).sum(axis=1)
    return total


def test_the_logsumexp_keeps_the_weight_of_what_was_read() -> None:
    """Over alpha: that is the share of the whole that the approximate scores give to the chosen tokens."""
    keys, values, query = rows(1, 300, 64), rows(1, 300, 64, seed=1), rows(1, 64, seed=2)
    pages = pages_of(a_shape(1, 1), keys, values)
    engine = SparFEngine(16, 32)
    approximate = approximate_scores(query, pages, 0, top_channels(query, 16))
    chosen = engine.choose(approximate)
    alpha = (np.exp(approximate) / np.exp(approximate).sum())[0, chosen].sum()
    found = engine.attend(query, pages)
    np.testing.assert_allclose(np.exp(found.logsumexp), _mass(query, keys[0, chosen]) / alpha, rtol=1e-4)


@pytest.mark.parametrize(
    ("r", "k", "local_k", "message"),
    [
        (0, 8, None, "r is 0"),
        (8, 0, None, "k is 0"),
        (1.5, 8, None, r"r is 1\.5; a share"),
        (8, -0.5, None, r"k is -0\.5; a share"),
        (8, 8, 9, "local_k is 9; it has to be between 0 and k, which is 8"),
        (8, 8, -1, "local_k is -1"),
    ],
)
def test_amounts_out_of_range(r: float, k: float, local_k: int | None, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        SparFEngine(r, k, local_k)


def test_more_channels_than_the_head_has() -> None:
    with pytest.raises(InvalidOptionError, match="r is 65; the head has 64 channels"):
        SparFEngine(65, 8).attend(rows(1, 64), pages_of(a_shape(1, 1), rows(1, 8, 64), rows(1, 8, 64)))


class TestSparF(EngineContract):
    def make(self, compression: float) -> SparFEngine:
        return SparFEngine(compression, compression)
