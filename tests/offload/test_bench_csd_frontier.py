"""The frontier of the drive's engines, on a model small enough for a test."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from offload.bench.csd_attend import attend_rows
from offload.bench.csd_decode import EngineModel
from offload.bench.csd_frontier import VARIANTS, FrontierSizes, csd_frontier
from offload.bench.needles import hide_needles
from offload.texts import file_tokens, help_tokens
from offload.tokens import load_tokenizer
from tiers.csd.engines.dense import DenseEngine
from tiers.csd.engines.group_mass import GroupMassEngine
from tiers.errors import InvalidOptionError


def test_decode_in_pages_is_the_models_own(tiny_llama: Path) -> None:
    """Exact engines over halves: the logits of the model, within what halves allow, and the same greedy tokens."""
    tokens = help_tokens(tiny_llama, 60)
    model = EngineModel(tiny_llama, tokens_per_group=8, channels_per_page=4)
    context, cache = model.prefill(tokens[:50])
    found = model.decode(context, DenseEngine(), tokens[50:])
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(tiny_llama)(torch.tensor([tokens])).logits[0, 50:]
    torch.testing.assert_close(found.logits, expected, atol=5e-2, rtol=0)
    assert found.tokens == tuple(expected.argmax(-1).tolist())
    assert found.tally.relative_error == 0
    assert found.tally.bytes_read == 1
    # A prefill in two parts is one prefill, and what follows greedily are the tokens that were put first.
    cache.crop(-20)
    again, _ = model.prefill(tokens[:50], cache)
    summed = model.decode(again, GroupMassEngine(1.0), tokens[50:])
    assert summed.tokens == found.tokens
    assert summed.tally.relative_error < 1e-4
    # Told in full or not at all: the answer is what greedy choice puts first, token after token.
    answer = [found.tokens[0]]
    assert model.answers(again, DenseEngine(), tokens[50], answer)
    assert not model.answers(again, DenseEngine(), tokens[50], [answer[0] + 1, answer[0]])


def test_rows_say_what_was_read_and_what_it_cost(tiny_llama: Path) -> None:
    told: list[tuple[int, int]] = []
    sizes = FrontierSizes(
        tokens=512, steps=3, needles=2, needle_tokens=256, tokens_per_group=8, channels_per_page=4, compressions=(1, 8)
    )
    result = csd_frontier(tiny_llama, progress=lambda done, total: told.append((done, total)), sizes=sizes)
    rows = {row["name"]: row for row in result["rows"]}
    assert len(rows) == 2 * len(VARIANTS)
    assert told[-1] == (3 * 2 * len(VARIANTS), 3 * 2 * len(VARIANTS))
    for name in VARIANTS:
        everything, some = rows[f"{name} at 1/1"], rows[f"{name} at 1/8"]
        assert everything["ours"] < 1e-3
        assert everything["top1"] == 1
        assert everything["needles"] in (None, 1)  # untrained, it may well tell none
        assert some["ours"] > everything["ours"]
        assert some["bytes_read"] < everything["bytes_read"]
        assert some["kl"] >= everything["kl"]
    assert rows["group_mass at 1/8"]["bytes_read"] == pytest.approx(1 / 8, abs=0.01)
    assert rows["group_mass at 1/8"]["bytes_with_summaries"] == pytest.approx(1 / 8 + 3 / 16, abs=0.01)
    assert rows["sparf at 1/1"]["bytes_read"] == pytest.approx(1.5, abs=0.05)  # keys are there twice


def test_needles_are_in_the_text_once(tiny_llama: Path) -> None:
    tokenizer, text = load_tokenizer(tiny_llama), help_tokens(tiny_llama, 2000)
    tokens, needles = hide_needles(tokenizer, text, 5, seed=3)
    assert len(tokens) == len(text)
    whole = str(tokenizer.decode(tokens))
    for needle in needles:
        assert whole.count(str(tokenizer.decode([*needle.question, *needle.answer]))) == 1
    assert hide_needles(tokenizer, text, 5, seed=3) == (tokens, needles)


@pytest.mark.parametrize("count", [0, 33])
def test_more_needles_than_there_are(tiny_llama: Path, count: int) -> None:
    with pytest.raises(InvalidOptionError, match=f"needles is {count}; it has to be between 1 and 32"):
        hide_needles(load_tokenizer(tiny_llama), list(range(100)), count, seed=0)


def test_a_text_of_ones_own(tiny_llama: Path, tmp_path: Path) -> None:
    given = tmp_path / "fox.txt"
    given.write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    sizes = FrontierSizes(
        tokens=64, steps=2, needles=1, needle_tokens=64, compressions=(2,), variants=("group_mass",), tokens_per_group=8
    )
    found = csd_frontier(tiny_llama, text=given, sizes=sizes)
    assert found["text"] == "fox.txt"
    assert found["rows"][0]["top1"] <= 1
    assert file_tokens(tiny_llama, 20, given) == load_tokenizer(tiny_llama)(given.read_text()).input_ids[:20]


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read"), (b"\xff\xfe", "UTF-8"), (b"short", "tokens;")])
def test_a_text_that_is_none(tiny_llama: Path, tmp_path: Path, content: bytes | None, said: str) -> None:
    given = tmp_path / "text"
    if content is not None:
        given.write_bytes(content)
    with pytest.raises(InvalidOptionError, match=said):
        file_tokens(tiny_llama, 100, given)


def test_attend_is_timed_beside_torch() -> None:
    rows = attend_rows(num_tokens=64, rounds=1)
    assert [row["unit"] for row in rows] == ["ms"] * 4
    assert all(row["aim_ms"] == 1.5 * row["peer"] + row["read_ms"] > 0 for row in rows[1::2])
    for row in rows:
        assert row["ratio_to_peer"] == row["peer"] / row["ours"] > 0
