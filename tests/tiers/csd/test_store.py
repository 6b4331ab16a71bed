"""What a drive holds and answers, without the queue: compared with the tokens that went in."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiers.csd.kit import CONFIG, SMALL, Tokens, attend, attention, open_store, tokens, write
from tiers.csd.commands import Attend, Config, Inspect, Precision, Reclaim, WriteKV
from tiers.csd.layer_pages import LayerPages
from tiers.csd.page_log import PageLog
from tiers.csd.page_table import LayerKey
from tiers.csd.pages import PageKind
from tiers.csd.store import DriveStore
from tiers.errors import DriveFullError, InvalidOptionError, TokensLostError

KEY = LayerKey(CONFIG.task, 0, 0)
ROOMY = replace(SMALL, blocks_per_die=64)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def holds(store: DriveStore, made: Tokens, n: int, key: LayerKey = KEY) -> None:
    """Everything that an engine can read is what was written."""
    layer = store._layers[key]
    pages = LayerPages(layer, PageLog())
    shape = pages.shape
    assert pages.num_tokens == n
    groups = np.arange(shape.num_groups(n))
    channels = np.array([3, 63, 0, 17])
    for head in range(shape.kv_heads):
        keys = pages.key_groups(head, groups).reshape(-1, shape.head_dim)
        values = pages.value_groups(head, groups).reshape(-1, shape.head_dim)
        assert np.array_equal(keys[:n], made.keys[head, :n])
        assert np.array_equal(values[:n], made.values[head, :n])
        assert not keys[n:].any(), "rows past the last token are zero"
        assert np.array_equal(pages.key_channels(head, channels), made.keys[head, :n, channels])
        assert np.allclose(pages.value_sum(head), made.values[head, :n].sum(axis=0, dtype=np.float64), atol=1e-2)
    some = groups[::3]
    found = pages.key_groups(0, some)
    for index, group in enumerate(some.tolist()):
        rows = made.keys[0, group * shape.tokens_per_group : min(n, (group + 1) * shape.tokens_per_group)]
        assert np.array_equal(found[index, : len(rows)], rows)


@pytest.mark.parametrize("key_copies", [1, 2])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("dram_nbytes", [1 << 20, 110_000])
def test_holds_what_was_written(tmp_path: Path, dtype: Precision, key_copies: int, dram_nbytes: int) -> None:
    """However it comes in, whether the keys of a span wait in memory or are read back from their groups."""
    config = replace(CONFIG, dtype=dtype, key_copies=key_copies)
    made = tokens(400, config=config)

    @FEW
    @given(steps=st.lists(st.tuples(st.sampled_from((1, 2, 15, 16, 40, 130)), st.booleans()), max_size=12))
    def check(steps: list[tuple[int, bool]]) -> None:
        geometry = replace(ROOMY, dram_nbytes=dram_nbytes)
        with closing(open_store(tmp_path / "image", geometry)) as store:
            (tmp_path / "image").unlink()
            store.configure(config)
            n = 0
            for step, has_time in steps:
                last = min(400, n + step)
                answer = store.write_kv(write(made, n, last, config=config))
                n = last
                assert answer.num_tokens == n
                assert n - store.shape_of(1)[1].tokens_per_group <= answer.num_flushed <= n
                if has_time:
                    store.work()
                store.check()
            if n:
                assert store._layers[KEY].is_wide == (key_copies == 2 and dram_nbytes > 110_000)
                holds(store, made, n)

    check()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("float32", 1e-5)])
def test_attention_is_that_of_the_plain_formula(tmp_path: Path, dtype: Precision, tolerance: float) -> None:
    config = replace(CONFIG, dtype=dtype)
    made = tokens(140, config=config)
    with closing(open_store(tmp_path / "image")) as store:
        store.configure(config)
        store.write_kv(write(made, 0, 100, config=config))
        for token in range(100, 140):
            answer = store.attend(attend(made, token, config=config))
            output, logsumexp = attention(made, token + 1)
            assert np.abs(answer.output[0] - output).max() < tolerance
            assert np.abs(answer.logsumexp[0] - logsumexp).max() < tolerance
            if token % 3:
                store.work()
        holds(store, made, 140)


def test_sequences_layers_and_tasks_do_not_mix(tmp_path: Path) -> None:
    other = replace(CONFIG, task=2, kv_heads=1, head_dim=128)
    with closing(open_store(tmp_path / "image")) as store:
        store.configure(CONFIG)
        store.configure(other)
        made = {(sequence, layer): tokens(50, seed=10 * sequence + layer) for sequence in (0, 5) for layer in (0, 1)}
        for (sequence, layer), one in made.items():
            store.write_kv(write(one, 0, 50, sequence=sequence, layer=layer))
        wide = tokens(50, seed=99, config=other)
        store.write_kv(write(wide, 0, 50, sequence=5, layer=1, config=other))
        for (sequence, layer), one in made.items():
            holds(store, one, 50, LayerKey(CONFIG.task, sequence, layer))
        pages = LayerPages(store._layers[LayerKey(2, 5, 1)], PageLog())
        assert np.array_equal(pages.key_groups(0, np.arange(7)).reshape(-1, 128)[:50], wide.keys[0])
        store.check()


def test_a_batch_gets_its_tokens_together_or_not_at_all(tmp_path: Path) -> None:
    made = [tokens(20, seed=seed) for seed in range(3)]
    with closing(open_store(tmp_path / "image")) as store:
        store.configure(CONFIG)
        for sequence, one in enumerate(made):
            store.write_kv(write(one, 0, 10 + sequence, sequence=sequence))
        rows = np.arange(3)
        starts = 10 + rows
        query, keys, values = (
            np.stack(parts)
            for parts in zip(
                *((one.query, one.keys[:, 10 + i], one.values[:, 10 + i]) for i, one in enumerate(made)), strict=True
            )
        )
        with pytest.raises(TokensLostError, match=r"sequence 2, layer 0: .* goes on from token 13, the drive holds 12"):
            store.attend(Attend(1, 0, rows, starts + np.array([0, 0, 1]), query, keys, values))
        assert [store.inspect(Inspect(1, row)).num_tokens[0] for row in range(3)] == [10, 11, 12]
        answer = store.attend(Attend(1, 0, rows, starts, query, keys, values))
        for row, one in enumerate(made):
            assert np.abs(answer.output[row] - attention(one, 11 + row)[0]).max() < 1e-5
        # The host may keep its newest tokens to itself.
        again = store.attend(Attend(1, 0, rows, starts + 1, query))
        assert np.array_equal(again.output, answer.output)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (Config(2, 2, 2, 2, 80), "bytes a token do not divide"),
        (Config(5000, 2, 2, 2, 64), "task 5000 is not addressable"),
        (Config(2, 0, 2, 2, 64), "num_layers is 0"),
        (Config(2, 2, 0, 2, 64), "kv_heads is 0"),
        (Config(2, 2, 2, 2, 64, key_copies=3), "key_copies is 3"),
        (Config(2, 2, 2, 2, 64, engine="psychic"), "attention engine 'psychic' is unknown; choose one of"),
        (Config(2, 2, 2, 2, 64, engine_options={"r": 3}), "attention engine 'dense'"),
        (Config(2, 2, 2, 2, 64, dense_layers=(2,)), "dense_layers names layer 2"),
        (CONFIG, "task 1 has sequences; reclaim them"),
        (write(tokens(4), 0, 4, layer=2), "task 1 has layers 0 to 1, not 2"),
        (write(tokens(40), 10, 20), "the drive holds 30 tokens, the command goes on from 10"),
        (replace(write(tokens(4), 0, 4), task=9), "task 9 is not configured"),
        (replace(write(tokens(4), 0, 4), sequence=1 << 20), "sequence 1048576 is not addressable"),
        (Attend(1, 0, np.array([0, 0]), np.array([30, 30]), np.zeros((2, 4, 64))), "a sequence is named twice"),
        (Reclaim(7), "task 7 is not configured"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, command: Config | WriteKV | Attend, message: str) -> None:
    with closing(open_store(tmp_path / "image")) as store:
        store.configure(CONFIG)
        store.write_kv(write(tokens(30), 0, 30))
        before = store.health()
        with pytest.raises(InvalidOptionError, match=message):
            store.execute(command)
        assert store.health() == before
        store.check()


def test_a_full_drive_reclaims_then_says_what_is_missing(tmp_path: Path) -> None:
    made = tokens(400)
    with closing(open_store(tmp_path / "image")) as store:
        store.configure(CONFIG)
        for sequence in range(3):
            store.write_kv(write(made, 0, 400, sequence=sequence))
        with pytest.raises(DriveFullError, match=r"bytes of flash wanted, [1-9][0-9,]* left after reclaim") as caught:
            store.write_kv(write(made, 0, 400, sequence=3))
        assert caught.value.wanted_nbytes == (2 * 25 + 3 * 8) * 2 * 4096
        store.check()
        assert store.inspect(Inspect(1, 3)).num_tokens == (0, 0)
        answer = store.reclaim(Reclaim(1))
        assert answer.num_pages == 3 * 148
        store.write_kv(write(made, 0, 400, sequence=3))
        holds(store, made, 400, LayerKey(1, 3, 0))
        assert store.health().blocks_erased > 0
        store.check()


def test_decoding_on_a_full_drive_changes_nothing_and_goes_on_after_a_reclaim(tmp_path: Path) -> None:
    """The token that finds its group full and no room for it is refused; it was not appended."""
    made = tokens(64)
    other = replace(CONFIG, task=2)
    with closing(open_store(tmp_path / "image", replace(SMALL, dram_nbytes=1 << 22))) as store:
        store.configure(CONFIG)
        store.configure(other)
        store.write_kv(write(made, 0, 31))
        for sequence in range(42):  # 3 groups, 12 pages each, and 4 are taken: nothing is left
            store.write_kv(write(made, 0, 48, sequence=sequence, config=other))
        store.write_kv(write(made, 0, 16, sequence=42, config=other))
        store.work()
        assert store.health().free_pages == 0
        store.attend(attend(made, 31))
        with pytest.raises(DriveFullError, match="16,384 bytes of flash wanted, 0 left after reclaim"):
            store.attend(attend(made, 32))
        store.check()
        holds(store, made, 32)
        store.reclaim(Reclaim(2))
        for token in range(32, 64):
            store.attend(attend(made, token))
        holds(store, made, 64)
        store.check()


def test_memory_is_bounded(tmp_path: Path) -> None:
    """More sequences than the drive's memory has buffers for; reclaimed ones give theirs back."""
    made = tokens(8)
    with closing(open_store(tmp_path / "image", replace(SMALL, dram_nbytes=65_536))) as store:
        store.configure(CONFIG)
        empty = store.health().memory_used_nbytes
        store.write_kv(write(made, 0, 8, sequence=0))
        num_sequences = (65_536 - empty) // (store.health().memory_used_nbytes - empty)
        for sequence in range(1, num_sequences):
            store.write_kv(write(made, 0, 8, sequence=sequence))
        with pytest.raises(DriveFullError, match=r"bytes of memory wanted, .* give the drive more memory"):
            store.write_kv(write(made, 0, 8, sequence=num_sequences))
        assert store.health().memory_used_nbytes <= 65_536
        store.check()
        store.reclaim(Reclaim(1))
        assert store.health().memory_used_nbytes == empty


def test_what_can_wait_is_done_when_there_is_time(tmp_path: Path) -> None:
    made = tokens(200)
    with closing(open_store(tmp_path / "image")) as store:
        store.configure(CONFIG)
        assert not store.work()
        store.write_kv(write(made, 0, 16))
        assert store.inspect(Inspect(1, 0)).num_flushed == (0, 0)
        assert store.work()
        assert store.inspect(Inspect(1, 0)).num_flushed == (16, 0)
        assert not store.work()
        store.reclaim(Reclaim(1))
        assert store.health().dead_pages > 0
        while store.work():
            store.check()
        health = store.health()
        assert (health.free_pages, health.valid_pages, health.dead_pages) == (512, 0, 0)


def test_every_read_of_a_page_is_logged(tmp_path: Path) -> None:
    made = tokens(150)
    with closing(open_store(tmp_path / "image", traces=True)) as store:
        store.configure(CONFIG)
        store.write_kv(write(made, 0, 150))
        written = store.trace().phases
        assert list(written) == ["program"]
        assert np.array_equal(np.sort(written["program"]), np.arange(2 * (9 + 9 + 8)))
        pages = LayerPages(store._layers[KEY], PageLog())
        pages.log.enter("first")
        pages.key_channels(1, np.array([0, 7, 8]))
        found = pages.log.pages("first").tolist()
        channel_pages = [[PageKind.KEY_CHANNELS, 1, page] for page in (0, 1)]
        assert found == channel_pages, "the keys of the rest wait in memory, which costs no page"
        pages.log.enter("second")
        pages.value_groups(0, np.array([0, 8, 9]))
        assert pages.log.pages("second").tolist() == [[PageKind.VALUE_GROUP, 0, 0], [PageKind.VALUE_GROUP, 0, 8]]
        before = store.health().pages_read
        store.attend(Attend(1, 0, np.array([0]), np.array([150]), made.query[None]))
        trace = store.trace().phases["attend"]
        assert store.health().pages_read - before == trace.size
        assert np.unique(trace).size == trace.size
        assert trace.size == 2 * (9 + 8), "values of 9 groups, keys of the 8 that are in the channel index"
