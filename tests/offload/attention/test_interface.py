from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from offload.attention.interface import NAME, blockwise_attention, register
from offload.attention.padding import Padding, padding_mask
from offload.kv.cache import TieredCache
from prefetch.selection import KVSelector
from tests.offload.attention.kit import MODULE, QUERY_HEADS, Sequences, make_config
from tests.offload.kv.kit import DIM, HEADS, open_store, used_slots
from tiers.errors import ModelError

WINDOWS = (None, 6, 9)


@st.composite
def passes(draw: st.DrawFn) -> tuple[Sequences, list[int]]:
    """A batch with padding of any kind, windows in some layers, and cuts between passes: chunks and single tokens."""
    batch = draw(st.integers(1, 3))
    total = draw(st.integers(1, 30))
    visible = torch.ones(batch, total, dtype=torch.bool)
    for row in range(batch):
        visible[row, : draw(st.integers(0, total - 1))] = False
        for hole in draw(st.lists(st.integers(0, total - 1), max_size=2)):
            visible[row, hole] = False
    window = draw(st.sampled_from(WINDOWS))
    windows = draw(st.lists(st.sampled_from([None, window]), min_size=1, max_size=3))
    cuts = sorted(draw(st.sets(st.integers(1, total - 1), max_size=8))) if total > 1 else []
    return Sequences(batch, total, windows, visible, draw(st.integers(0, 999))), [0, *cuts, total]


@given(case=passes(), device=st.integers(0, 6), host=st.booleans())
@settings(max_examples=120, deadline=None)
def test_cached_attention_is_attention(case: tuple[Sequences, list[int]], device: int, host: bool) -> None:
    """Whatever the chunks, the padding, the windows and the room on the device."""
    sequences, bounds = case
    rows = len(sequences.windows) * sequences.visible.shape[0]
    blocks = rows * 8
    # At least a slot for each block that is being written, and one for the others to pass through.
    slots = rows + 1 + device if host else blocks
    with open_store(slots, host=blocks if host else 0, layers=len(sequences.windows)) as store:
        with TieredCache(store, make_config(sequences.windows)) as cache:
            for start, stop in pairwise(bounds):
                sequences.check(sequences.forward(cache, start, stop), start, stop)
                store.manager.check()
        assert not any(used_slots(store))


@given(passes())
@settings(max_examples=50, deadline=None)
def test_attention_without_a_cache(case: tuple[Sequences, list[int]]) -> None:
    sequences, bounds = case
    sequences.check(sequences.forward(None, 0, bounds[-1]), 0, bounds[-1])


def test_two_caches_at_a_time_over_one_store() -> None:
    """What one has read ahead does not keep the other from running, in a device that is too small for either."""
    visible = torch.ones(1, 40, dtype=torch.bool)
    pair = [Sequences(1, 40, (None, None), visible, seed) for seed in (1, 2)]
    config = make_config((None, None))
    with open_store(5, host=60, layers=2) as store:
        with TieredCache(store, config) as first, TieredCache(store, config) as second:
            for start, stop in [(0, 17), (17, 18), (18, 19), (19, 20), (20, 37), (37, 40)]:
                for sequences, cache in zip(pair, (first, second), strict=True):
                    sequences.check(sequences.forward(cache, start, stop), start, stop)
        assert not any(used_slots(store))


class Newest(KVSelector):
    """Sees the last two blocks only."""

    def select(self, layer: int, num_blocks: int, query_summary: object | None) -> Sequence[int]:
        return range(max(0, num_blocks - 2), num_blocks)


@pytest.mark.parametrize("host", [0, 8])
def test_a_selector_decides_what_is_seen(host: int) -> None:
    sequences = Sequences(1, 19, (None,), torch.ones(1, 19, dtype=torch.bool), 3)
    with open_store(6, host=host, selector=Newest()) as store, TieredCache(store, make_config((None,))) as cache:
        sequences.forward(cache, 0, 18)
        (output,) = sequences.forward(cache, 18, 19)
    sequences.visible[:, :12] = False
    expected, _ = sequences.expected(0, 18, 19)
    torch.testing.assert_close(output, expected)


def test_counts_blocks_whether_they_can_move_or_not() -> None:
    sequences = Sequences(1, 19, (None,), torch.ones(1, 19, dtype=torch.bool), 3)
    hits = []
    for host in (0, 8):
        with open_store(6, host=host) as store, TieredCache(store, make_config((None,))) as cache:
            sequences.forward(cache, 0, 18)
            sequences.forward(cache, 18, 19)
            hits.append(store.manager.stats.hits)
    assert hits == [5, 5]


def cached() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(1, QUERY_HEADS, 3, DIM), torch.randn(1, HEADS, 3, DIM), torch.randn(1, HEADS, 3, DIM)


def test_sinks() -> None:
    query, key, value = cached()
    sink = torch.tensor([0.0, 1.0, 2.0, 40.0])
    output, _ = blockwise_attention(MODULE, query, key, value, None, s_aux=sink)
    without, _ = blockwise_attention(MODULE, query, key, value, None)
    assert (output.abs() < without.abs()).all()
    assert not output[0, :, 3].round(decimals=6).any()


def test_scale_of_the_model_or_of_the_width() -> None:
    query, key, value = cached()
    default, _ = blockwise_attention(MODULE, query, key, value, None)
    assert torch.equal(default, blockwise_attention(MODULE, query, key, value, None, scaling=DIM**-0.5)[0])
    assert not torch.allclose(default, blockwise_attention(MODULE, query, key, value, None, scaling=2.0)[0])


def test_soft_caps_are_refused() -> None:
    with pytest.raises(ModelError, match=r"soft-capped scores \(softcap=50.0\)"):
        blockwise_attention(MODULE, *cached(), None, softcap=50.0)


def test_looking_ahead_is_refused() -> None:
    with pytest.raises(ModelError, match="is_causal=False"):
        blockwise_attention(MODULE, *cached(), None, is_causal=False)


def test_dropout_is_refused_in_training_only() -> None:
    with pytest.raises(ModelError, match=r"call model.eval\(\)"):
        blockwise_attention(nn.Module().train(), *cached(), None, dropout=0.1)
    blockwise_attention(MODULE, *cached(), None, dropout=0.1)


def test_masks_of_queries_by_keys_are_refused() -> None:
    """transformers hands a mask of four dimensions through as it is."""
    mask: object = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    with pytest.raises(ModelError, match=r"pass \[batch, tokens\]"):
        blockwise_attention(MODULE, *cached(), mask)  # type: ignore[arg-type]  # what a model does


@pytest.mark.parametrize("changed", ["key", "value"])
def test_keys_or_values_changed_after_they_were_cached_are_refused(changed: str) -> None:
    query, key, value = cached()
    with open_store(2) as store, TieredCache(store, make_config((None,))) as cache:
        key, value = cache.update(key, value, 0)
        given = {"key": key, "value": value}
        given[changed] = given[changed] * 2
        with pytest.raises(ModelError, match="changes keys or values on their way from the cache"):
            blockwise_attention(MODULE, query, given["key"], given["value"], None)


def test_a_window_that_is_not_that_of_the_configuration_is_refused() -> None:
    query, key, value = cached()
    with open_store(2) as store, TieredCache(store, make_config((6,))) as cache:
        key, value = cache.update(key, value, 0)
        with pytest.raises(ModelError, match=r"window of None where config.json says 6"):
            blockwise_attention(MODULE, query, key, value, None)


def test_registered_with_transformers() -> None:
    assert register() == NAME == register()
    assert AttentionInterface()[NAME] is blockwise_attention
    assert AttentionMaskInterface()[NAME] is padding_mask


def make_mask(cache: Cache | None, mask: Tensor | None, queries: int, **options: object) -> object:
    """What transformers makes of a mask for our attention function."""
    config = make_config((None, 6))
    config._attn_implementation = register()
    embeddings = torch.empty(2, queries, 0)
    masks = [
        create(config, embeddings, mask, cache, **options)  # type: ignore[arg-type]  # options of many types
        for create in (create_causal_mask, create_sliding_window_causal_mask)
    ]
    assert type(masks[0]) is type(masks[1])
    return masks[0]


def test_masks_come_from_transformers_as_padding() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert make_mask(None, None, 3) is None
    padding = make_mask(None, mask, 3)
    assert isinstance(padding, Padding)
    assert padding.first == (1, 0)
    with open_store(40, layers=2) as store, TieredCache(store, make_config((None, 6))) as cache:
        for layer, window in enumerate((None, 6)):
            key, value = cache.update(torch.randn(2, HEADS, 8, DIM), torch.randn(2, HEADS, 8, DIM), layer)
            query = torch.randn(2, QUERY_HEADS, 8, DIM)
            blockwise_attention(MODULE, query, key, value, None, sliding_window=window)
        longer = torch.cat([mask, torch.ones(2, 6, dtype=torch.long)], 1)
        padding = make_mask(cache, longer, 1)
        assert isinstance(padding, Padding)
        assert padding.visible.shape == (2, 9)


def test_packed_sequences_are_refused() -> None:
    with pytest.raises(ModelError, match="packed"):
        make_mask(None, None, 4, position_ids=torch.tensor([[0, 1, 0, 1]]))


def test_a_cache_of_transformers_with_windows() -> None:
    """It returns the keys of its window, later ones than the mask begins with; only direct users of a layer do so."""
    config = make_config((6,))
    sequences = Sequences(2, 12, (6,), torch.ones(2, 12, dtype=torch.bool), 5)
    sequences.visible[1, :7] = False
    cache = DynamicCache(config=config)
    for start, stop in [(0, 9), (9, 10), (10, 12)]:
        length, offset = cache.get_mask_sizes(stop - start, 0)
        padding = padding_mask(kv_length=length, kv_offset=offset, attention_mask=sequences.visible[:, :stop])
        key, value = cache.update(sequences.key[0, :, :, start:stop], sequences.value[0, :, :, start:stop], 0)
        output, _ = blockwise_attention(
            MODULE, sequences.query[0, :, :, start:stop], key, value, padding, 0.4, sliding_window=6
        )
        sequences.check([output], start, stop)
