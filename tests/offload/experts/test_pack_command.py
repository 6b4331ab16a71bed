"""``offload pack --experts`` and ``offload run --experts``, as a user types them."""

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from offload.experts.loss import measure_loss, perplexity
from offload.experts.note import ExpertNote
from offload.pack import pack
from offload.texts import help_tokens
from tests.offload.test_cli import complaint, offload
from tests.offload.zoo import plain_model, save_model


def model_with_tokenizer(path: Path, smollm2: Path) -> Path:
    save_model(path, "mixtral", vocab_size=49152, num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(smollm2 / name, path)
    return path


def test_loss_is_measured_and_told(smollm2: Path, tmp_path: Path) -> None:
    model = model_with_tokenizer(tmp_path / "model", smollm2)
    packed = tmp_path / "packed"
    ran = offload(
        *("pack", str(model), str(packed), "--experts", "int4", "--loss-tokens", "100", "--json"), cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)["experts"]
    assert found["precision"] == "int4"
    assert found["num_tokens"] == 100
    assert found["perplexity"] != found["perplexity_stored"]
    tokens = torch.tensor([help_tokens(model, 100)])
    with torch.inference_mode():
        expected = math.exp(plain_model(model)(tokens, labels=tokens).loss)
    assert math.isclose(found["perplexity_stored"], expected, rel_tol=1e-4)
    assert math.isclose(perplexity(model, tokens[0].tolist()), expected, rel_tol=1e-4)

    ran = offload(
        *("run", str(packed), "--experts", "int4", "--prompt", "x", "--max-new-tokens", "2", "--json"), cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["experts"] == found
    assert "experts in int4: weights differ by 8" in ran.stderr
    assert f"perplexity {found['perplexity_stored']:.2f} -> {found['perplexity']:.2f} on 100 tokens" in ran.stderr


def test_two_precisions(smollm2: Path, tmp_path: Path) -> None:
    """What the lower one loses is measured where it is used, decoding and in a prompt, and told by who uses it."""
    model = model_with_tokenizer(tmp_path / "model", smollm2)
    packed = tmp_path / "packed"
    pack(model, packed, experts="int8+int2")
    done: list[tuple[int, int]] = []
    found = measure_loss(model, packed, 20, progress=lambda *counts: done.append(counts))
    assert done[-1] == (4 * 19, 4 * 19)
    low = found.low
    assert low is not None
    assert low.precision == "int2"
    assert len({found.perplexity, low.perplexity_decode, low.perplexity_prompt}) == 3
    assert ExpertNote.load(packed) == found
    arguments = (
        "--prompt",
        "x",
        "--max-new-tokens",
        "3",
        "--experts",
        "int8+int2",
        "--miss-precision",
        "low",
        "--json",
    )
    ran = offload("run", str(packed), *arguments, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert f"in int2 where they add little: weights differ by {low.relative_error:.1%}, perplexity at wor" in ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["low_precision_ratio"] > 0
    assert answer["experts"]["low"] == asdict(low)


def test_what_a_model_does_not_have(smollm2: Path, tmp_path: Path) -> None:
    model = model_with_tokenizer(tmp_path / "model", smollm2)
    ran = offload("run", str(model), "--experts", "int4", "--prompt", "x", cwd=tmp_path)
    assert ran.returncode == 2
    assert "keeps its experts in 'stored'; run 'offload pack MODEL OUT --experts int4'" in complaint(ran)
    for arguments, expected in (
        (("run", str(model), "--prompt", "x", "--experts", "int1"), "--experts: 'int1' is no precision of experts"),
        (("pack", str(model), "out", "--experts", "int1"), "--experts int1: unknown; choose one of int8"),
        (("pack", str(model), "out", "--experts", "int2-cold"), "record a trace"),
        (("pack", str(model), "out", "--experts", "int2-cold", "--trace", "t.npz"), "t.npz: no such expert trace"),
        (("pack", str(model), "out", "--experts", "int4", "--loss-tokens", "x"), "--loss-tokens: 'x' is not a count"),
    ):
        ran = offload(*arguments, cwd=tmp_path)
        assert ran.returncode == 2
        assert expected in complaint(ran)
    assert not (tmp_path / "out").exists()
