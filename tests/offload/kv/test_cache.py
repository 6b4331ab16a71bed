import copy
import gc
from collections.abc import Callable
from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config

from offload.kv.cache import TieredCache, layer_windows
from tests.offload.attention.kit import Sequences, make_config
from tests.offload.kv.kit import DIM, HEADS, open_store, used_slots
from tiers.errors import InvalidOptionError, ModelError, TierFullError

FULL, MIXED = (None, None), (None, 6)


def sequences(batch: int = 1, windows: tuple[int | None, ...] = FULL, seed: int = 0, total: int = 40) -> Sequences:
    return Sequences(batch, total, windows, torch.ones(batch, total, dtype=torch.bool), seed)


def run(given: Sequences, cache: TieredCache, *bounds: int) -> None:
    """Passes from bound to bound, each of them checked."""
    for start, stop in pairwise(bounds):
        given.check(given.forward(cache, start, stop), start, stop)


@pytest.mark.parametrize("host", [0, 60])
@pytest.mark.parametrize("windows", [FULL, MIXED])
def test_a_conversation(windows: tuple[int | None, ...], host: int) -> None:
    """A prompt, some tokens, another prompt into the same cache; everything comes back at the end."""
    given = sequences(2, windows)
    with open_store(8 if host else 40, host=host, layers=2) as store:
        with TieredCache(store, make_config(windows)) as cache:
            run(given, cache, 0, 11, 12, 13, 30, 31, 32)
            assert cache.get_seq_length() == 32
        assert not any(used_slots(store))
        run(given, cache, 0, 5)  # a closed cache is empty, not broken
        cache.close()


def test_knows_its_sizes() -> None:
    with open_store(20, layers=2) as store, TieredCache(store, make_config(MIXED)) as cache:
        run(sequences(windows=MIXED), cache, 0, 7)
        assert cache.is_sliding == [False, True]
        assert cache.get_mask_sizes(3, 1) == (10, 0)
        assert cache.get_max_length() == -1
        assert not cache.is_compileable
        assert cache.is_croppable


@pytest.mark.parametrize("removed", [-1, -3, -4, -9, 0, -11, -20, 2, 8, 11, 12])
def test_crop(removed: int) -> None:
    """A negative number is how many go, a positive one how many stay: transformers had both."""
    given = sequences(2)
    with open_store(10, host=60, layers=2) as store, TieredCache(store, make_config(FULL)) as cache:
        run(given, cache, 0, 10, 11)
        cache.crop(removed)
        kept = cache.get_seq_length()
        assert kept == (min(removed, 11) if removed > 0 else max(0, 11 + removed))
        run(given, cache, kept, kept + 1, 25)


def test_crop_of_a_window_that_has_moved_on() -> None:
    """Not one layer is rolled back if another one cannot be."""
    given = sequences(windows=MIXED)
    with open_store(30, layers=2) as store, TieredCache(store, make_config(MIXED)) as cache:
        run(given, cache, 0, 20, 21, 22)
        with pytest.raises(InvalidOptionError, match="cannot roll back from 22 to 12 tokens"):
            cache.crop(-10)
        run(given, cache, 22, 23)


@pytest.mark.parametrize("accepted", range(8))
def test_past_is_kept_for_a_crop_where_it_was_announced(accepted: int) -> None:
    """As in assisted generation: eight drafted tokens, of which the model takes some; window layers forget later."""
    given = sequences(windows=MIXED)
    with open_store(40, layers=2) as store, TieredCache(store, make_config(MIXED)) as cache:
        cache.activate_past_recording()
        run(given, cache, 0, 20)
        cache.crop(0)
        (before,) = used_slots(store)
        run(given, cache, 20, 28)
        cache.crop(accepted - 8)
        run(given, cache, 20 + accepted, 30)
        cache.crop(0)
        assert used_slots(store)[0] <= before + 4


def test_beams_move_and_part() -> None:
    """Rows 2, 0, 0: one moves, one stays, one is copied, and row 1 is gone."""
    given = sequences(3, seed=4)
    with open_store(60, layers=2) as store:
        with TieredCache(store, make_config(FULL)) as cache:
            run(given, cache, 0, 10)
            cache.reorder_cache(torch.LongTensor([2, 0, 0]))
            for tensor in (given.query, given.key, given.value):
                tensor[:, :, :, :10] = tensor[:, [2, 0, 0], :, :10].clone()
            run(given, cache, 10, 11, 18)
            cache.batch_select_indices(torch.tensor([False, True, True]))
            for name in ("query", "key", "value"):
                setattr(given, name, getattr(given, name)[:, 1:])
            given.visible = given.visible[1:]
            run(given, cache, 18, 19)
            cache.batch_repeat_interleave(2)
            for name in ("query", "key", "value"):
                setattr(given, name, getattr(given, name).repeat_interleave(2, 1))
            given.visible = given.visible.repeat_interleave(2, 0)
            run(given, cache, 19, 25)
        assert not any(used_slots(store))


def test_reordering_an_empty_cache() -> None:
    with open_store(4, layers=2) as store, TieredCache(store, make_config(FULL)) as cache:
        cache.reorder_cache(torch.LongTensor([0]))
        cache.batch_repeat_interleave(3)
        cache.crop(-1)
        assert cache.get_seq_length() == 0


def test_no_room_for_another_beam() -> None:
    """Where no row is dropped, they are what they were. One that takes the place of another needs no room."""
    given = sequences(2)
    with open_store(8, layers=2) as store:
        with TieredCache(store, make_config(FULL)) as cache:
            run(given, cache, 0, 7)
            with pytest.raises(TierFullError):
                cache.batch_repeat_interleave(2)
            run(given, cache, 7, 8)
        with TieredCache(store, make_config(FULL)) as cache:
            run(given, cache, 0, 6)
            cache.reorder_cache(torch.LongTensor([1, 1]))
            for tensor in (given.query, given.key, given.value):
                tensor[:, 0, :, :6] = tensor[:, 1, :, :6].clone()
            run(given, cache, 6, 7)
        assert not any(used_slots(store))


def test_no_room_for_beams_where_one_is_dropped() -> None:
    """What it held is gone: nothing goes on from the others, and a closed cache is as good as new."""
    given = sequences(4)
    with open_store(16, layers=2) as store:
        with TieredCache(store, make_config(FULL)) as cache:
            run(given, cache, 0, 7)
            with pytest.raises(TierFullError):
                cache.batch_select_indices(torch.tensor([0, 0, 0, 0, 1, 2]))
            with pytest.raises(
                InvalidOptionError, match=r"or its beams did not fit; call close\(\) before the next one"
            ):
                given.forward(cache, 7, 8)
            cache.close()
            assert not any(used_slots(store))
            run(given, cache, 0, 7, 8)
        assert not any(used_slots(store))


def test_copies_share_what_is_full() -> None:
    """copy.deepcopy, as transformers has it for prompts that many conversations begin with."""
    prompt, other = sequences(), sequences(seed=9)
    other.query[:, :, :, :18], other.key[:, :, :, :18] = prompt.query[:, :, :, :18], prompt.key[:, :, :, :18]
    other.value[:, :, :, :18] = prompt.value[:, :, :, :18]
    with open_store(20, layers=2) as store:
        with TieredCache(store, make_config(FULL)) as cache:
            run(prompt, cache, 0, 18)
            with copy.deepcopy(cache) as twin:
                assert used_slots(store) == [2 * 5 + 2]
                run(other, twin, 18, 19, 24)
                run(prompt, cache, 18, 19, 24)
        assert not any(used_slots(store))


def test_no_room_for_a_copy() -> None:
    with open_store(2, layers=2) as store:
        with TieredCache(store, make_config(FULL)) as cache:
            run(sequences(), cache, 0, 2)
            with pytest.raises(TierFullError):
                copy.deepcopy(cache)
        assert not any(used_slots(store))


def test_a_dropped_cache_gives_its_blocks_to_the_next() -> None:
    """Without waiting for the garbage collector: as with the answers of generate that hold their cache."""
    gc.disable()
    try:
        with open_store(10, host=10, layers=2) as store:
            for _ in range(5):
                run(sequences(), TieredCache(store, make_config(FULL)), 0, 15)
            TieredCache(store, make_config(FULL)).close()
            assert not any(used_slots(store))
    finally:
        gc.enable()


@pytest.mark.parametrize("calls", range(1, 9))
@pytest.mark.parametrize("error", [KeyboardInterrupt, TierFullError("device", wanted_slots=1, available_slots=0)])
def test_an_interrupted_pass_is_noticed_and_can_be_undone(calls: int, error: type[BaseException] | Exception) -> None:
    """Wherever it stops, in whichever row and layer: no pass goes on from a half-written one, and crop mends it."""
    given = sequences(2)
    with open_store(30, layers=2) as store:
        with TieredCache(store, make_config(FULL)) as cache:
            run(given, cache, 0, 6)
            write, count = store.write, 0

            def interrupted(*arguments: object) -> None:
                nonlocal count
                count += 1
                if count == calls:
                    raise error
                write(*arguments)  # type: ignore[arg-type]  # passed on as they come

            with patch.object(store, "write", interrupted), pytest.raises((KeyboardInterrupt, TierFullError)):
                given.forward(cache, 6, 14)
            with pytest.raises(InvalidOptionError, match="a forward pass was interrupted") as raised:
                given.forward(cache, cache.get_seq_length(), cache.get_seq_length() + 3)
            if "crop(" in str(raised.value):
                cache.crop(int(str(raised.value).partition("crop(")[2].partition(")")[0]))
            else:
                cache.reset()
            kept = cache.get_seq_length()
            run(given, cache, kept, 20)
        assert not any(used_slots(store))


def test_another_batch_is_refused() -> None:
    with open_store(30, layers=2) as store, TieredCache(store, make_config(FULL)) as cache:
        run(sequences(2), cache, 0, 6)
        with pytest.raises(InvalidOptionError, match="holds 2 sequences, but 1 are given"):
            sequences(1).forward(cache, 6, 7)


def test_a_model_that_ignores_the_mark_is_refused() -> None:
    key = torch.randn(1, HEADS, 3, DIM)
    with open_store(30, layers=2) as store, TieredCache(store, make_config(FULL)) as cache:
        cache.update(key, key, 0)
        with pytest.raises(ModelError, match="layer 0 computes its attention outside"):
            cache.update(key, key, 1)


@pytest.mark.parametrize("shape", [(1, HEADS + 1, 3, DIM), (1, HEADS, 3, DIM + 1)])
def test_heads_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with open_store(30, layers=2) as store:
        cache = TieredCache(store, make_config(FULL))
        with pytest.raises(ModelError, match="the plan was made for"):
            cache.update(torch.randn(shape), torch.randn(shape), 0)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: LlamaConfig(num_hidden_layers=2), [None, None]),
        (lambda: GPT2Config(n_layer=2), [None, None]),
        (lambda: MistralConfig(num_hidden_layers=2, sliding_window=7), [7, 7]),
        (lambda: MistralConfig(num_hidden_layers=2, sliding_window=None), [None, None]),
        (lambda: Qwen2Config(num_hidden_layers=2, sliding_window=7, use_sliding_window=False), [None, None]),
        (
            lambda: Qwen2Config(num_hidden_layers=2, sliding_window=7, use_sliding_window=True, max_window_layers=1),
            [None, 7],
        ),
    ],
)
def test_windows_of_layers(make: Callable[[], PreTrainedConfig], expected: list[int | None]) -> None:
    assert layer_windows(make()) == expected


def test_other_kinds_of_layers() -> None:
    config = Qwen2Config(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"])
    config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(ModelError, match="layers of type 'chunked_attention' are not supported"):
        layer_windows(config)
