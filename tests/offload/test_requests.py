"""Several prompts: what is answered to each, and which run side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from offload.checkpoint.source import model_fingerprint
from offload.config import RunConfig
from offload.requests import read_requests
from offload.run import run
from prefetch.path_file import PathFile
from tests.offload.test_cli import complaint, offload
from tests.offload.zoo import VOCABULARY, generate, plain_model, save_model, smallest_budget
from tiers.errors import InvalidOptionError, ModelError

EXPERTS, LAYERS, NEW = 6, 4, 6
PROMPTS = ["4 6 8 10", "5 7 9", "12 14 16 18 20 22", "11 13 3"]
"""Even ids and odd ids in turn, of different lengths."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(
        tmp_path_factory.mktemp("moe"), "mixtral", num_local_experts=EXPERTS, num_experts_per_tok=2, eos_token_id=None
    )


@pytest.fixture(scope="module")
def parity(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A predictor by which even ids go to the first two experts of each layer, and odd ones to the last two."""
    ids = np.arange(VOCABULARY, dtype=np.int32)
    heads = np.full((2, LAYERS, EXPERTS), -5.0, np.float32)
    heads[0, :, :2] = heads[1, :, -2:] = 5.0
    network = {
        "embedding": np.eye(2, dtype=np.float16)[np.append(ids % 2, 0)],
        "norm": np.ones(2, np.float32),
        "heads": heads.reshape(2, -1),
        "offsets": np.zeros(LAYERS * EXPERTS, np.float32),
    }
    layers = np.arange(LAYERS, dtype=np.int32)
    path = tmp_path_factory.mktemp("predictor") / "parity.npz"
    PathFile("routing-path", model_fingerprint(model), EXPERTS, 2, layers, ids, 1, 4, network).save(path)
    return path


def expected(model: Path) -> list[list[int]]:
    plain = plain_model(model)
    rows = [torch.tensor([[int(word) for word in prompt.split()]]) for prompt in PROMPTS]
    return [generate(plain, {"input_ids": row, "attention_mask": torch.ones_like(row)}, NEW)[0] for row in rows]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_each_gets_the_answer_that_it_gets_alone(batch: int, model: Path, tmp_path: Path) -> None:
    """In the order in which they came, in little memory."""
    least = smallest_budget(model, tmp_path, prompt_tokens=6, new_tokens=NEW, batch=batch)
    config = RunConfig(device_memory=least, nvme_dir=tmp_path, batch=batch)
    result = run(config, model, prompts=PROMPTS, max_new_tokens=NEW)
    assert result.token_ids == expected(model)
    assert result.batches == [list(range(i, min(i + batch, 4))) for i in range(0, 4, batch)]
    assert result.prompt_tokens == 6
    assert result.decode_tokens_per_s == pytest.approx(4 * (NEW - 1) / result.decode_s)
    assert LAYERS * 2 <= result.experts_per_step <= LAYERS * min(EXPERTS, 2 * batch)
    json.dumps(result.as_json())


def test_those_that_are_foreseen_to_need_the_same_experts_run_side_by_side(model: Path, parity: Path) -> None:
    statuses: list[int] = []
    result = run(
        RunConfig(batch=2, predictor=str(parity)),
        model,
        prompts=PROMPTS,
        max_new_tokens=NEW,
        on_status=lambda status: statuses.append(status.new_tokens),
    )
    assert result.batches is not None
    assert sorted(result.batches) == [[0, 2], [1, 3]]
    assert result.token_ids == expected(model)
    assert statuses == [*range(NEW + 1), *range(NEW, 2 * NEW + 1)]


def test_an_answer_ends_where_it_ends(model: Path) -> None:
    """Not where the longest one beside it does."""
    whole = expected(model)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": whole[1][2]}))
    found = run(RunConfig(batch=4), model, prompts=PROMPTS, max_new_tokens=NEW).token_ids
    (model / "generation_config.json").unlink()
    ends = [row.index(whole[1][2]) + 1 if whole[1][2] in row else NEW for row in whole]
    assert found == [row[:end] for row, end in zip(whole, ends, strict=True)]


def test_prompts_in_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n".join([*PROMPTS[:2], "", *PROMPTS[2:]]), encoding="utf-8")
    ran = offload("run", str(model), "--prompts", "p.txt", "--max-new-tokens", "2", "--batch", "2", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    for number, (first, second, *_) in enumerate(expected(model), 1):
        assert f"{number}. {first} {second}\n" in ran.stdout
    (tmp_path / "empty").write_text("\n \n", encoding="utf-8")
    for arguments, said in (
        (("--prompts", "empty"), "--prompts: empty is empty; write a prompt on each line"),
        (("--prompts", "p.txt", "--prompt", "x"), "--prompts: a single prompt is given too"),
    ):
        ran = offload("run", str(model), *arguments, cwd=tmp_path)
        assert ran.returncode == 2
        assert said in complaint(ran)


def test_what_cannot_be_done(model: Path, parity: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="--prompts '4 x': not a list of token ids"):
        run(RunConfig(), model, prompts=["4 x"])
    other = save_model(tmp_path / "other", "mixtral", num_local_experts=EXPERTS, num_experts_per_tok=2, hidden_size=32)
    with pytest.raises(ModelError, match="was trained for another model"):
        run(RunConfig(batch=2, predictor=str(parity)), other, prompts=PROMPTS)


def test_padding_is_on_the_left() -> None:
    from offload.numbers import Numbers

    requests = read_requests(Numbers(), None, None, ["1 2 3", "4"], limit=2, batch=2, paths=None)
    ids, mask = requests.inputs([1, 0], pad=9)
    assert ids.tolist() == [[9, 4], [1, 2]]
    assert mask.tolist() == [[0, 1], [1, 1]]
