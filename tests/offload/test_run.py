"""One run from prompt to figures."""

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from offload.config import RunConfig
from offload.run import RunResult, run
from tests.offload.zoo import generate, plain_model, smallest_budget
from tests.tiers.kit import open_fds
from tiers.errors import InvalidOptionError, ModelError

if TYPE_CHECKING:
    from offload.plan import Plan
    from offload.run_observer import Status

TEXT = "The licensed work is provided on an as is basis, without warranties of any kind"


@pytest.fixture(scope="module")
def plain(tiny_llama: Path) -> PreTrainedModel:
    return plain_model(tiny_llama)


def expected(plain: PreTrainedModel, ids: list[int], new_tokens: int) -> list[int]:
    """Greedy tokens, up to the end of the sequence if that comes first."""
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    return generate(plain, inputs, new_tokens, min_new_tokens=0)[0]


def test_a_prompt_in_words(tiny_llama: Path, plain: PreTrainedModel) -> None:
    """The text comes in pieces as it is made, and the pieces together are the text."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = tokenizer(TEXT).input_ids
    pieces: list[str] = []
    plans: list[Plan] = []
    result = run(RunConfig(), tiny_llama, prompt=TEXT, max_new_tokens=12, on_text=pieces.append, on_plan=plans.append)
    assert result.token_ids == [expected(plain, ids, 12)]
    assert result.prompt_tokens == len(ids)
    assert result.text == [tokenizer.decode(result.token_ids[0], skip_special_tokens=True)]
    assert "".join(pieces) == result.text[0]
    assert result.placement == plans[0].placement()


def test_a_prompt_in_tokens_cut_short(tiny_llama: Path, plain: PreTrainedModel) -> None:
    ids = list(range(10, 60))
    result = run(RunConfig(), tiny_llama, prompt_ids=ids, prompt_tokens=20, max_new_tokens=5)
    assert result.prompt_tokens == 20
    assert result.token_ids == [expected(plain, ids[:20], 5)]


def test_the_first_tokens_of_a_long_text(tiny_llama: Path) -> None:
    """Are those of the whole text, though most of it is never looked at."""
    text = " ".join([TEXT] * 200)
    ids = AutoTokenizer.from_pretrained(tiny_llama)(text, verbose=False).input_ids
    for count in (1, 7, 300):
        by_text = run(RunConfig(), tiny_llama, prompt=text, prompt_tokens=count, max_new_tokens=2)
        assert by_text.token_ids == run(RunConfig(), tiny_llama, prompt_ids=ids[:count], max_new_tokens=2).token_ids


def streamed(tiny_llama: Path, tmp_path: Path, **workload: Any) -> RunConfig:
    least = smallest_budget(tiny_llama, tmp_path / "nvme", **workload)
    return RunConfig(device_memory=least, nvme_dir=tmp_path / "nvme", batch=workload.get("batch", 1))


def test_figures_of_a_streamed_run(tiny_llama: Path, tmp_path: Path, plain: PreTrainedModel) -> None:
    ids = [5 + i % 300 for i in range(200)]
    config = streamed(tiny_llama, tmp_path, prompt_tokens=200, new_tokens=9, batch=2)
    statuses: list[Status] = []
    result = run(config, tiny_llama, prompt_ids=ids, max_new_tokens=9, on_status=statuses.append)
    assert result.token_ids == [expected(plain, ids, 9)] * 2
    check_figures(result, new_tokens=len(result.token_ids[0]))
    assert (
        result.tiers["device"]["peak_bytes"] <= result.tiers["device"]["capacity_bytes"] <= (config.device_memory or 0)
    )
    assert result.links["nvme->device"]["bytes"] > 0
    assert result.hit_ratio < 0.9
    assert [status.phase for status in statuses] == ["prefill"] + ["decode"] * len(result.token_ids[0])
    assert [status.new_tokens for status in statuses] == list(range(len(statuses)))
    for status in statuses:
        assert all(used <= capacity for used, capacity in status.tiers.values())
    assert not (tmp_path / "nvme").exists()


def test_figures_of_a_resident_run(tiny_llama: Path) -> None:
    result = run(RunConfig(), tiny_llama, prompt=TEXT, max_new_tokens=6)
    check_figures(result, new_tokens=len(result.token_ids[0]))
    assert result.hit_ratio == 1.0
    assert result.stall_s == 0.0
    assert sum(link["bytes"] for link in result.links.values()) == 0


def check_figures(result: RunResult, new_tokens: int) -> None:
    """They fit together, and JSON takes them."""
    steps = (new_tokens - 1) * len(result.token_ids)
    assert result.decode_tokens_per_s == pytest.approx(steps / result.decode_s)
    assert result.prefill_s > 0
    assert result.load_s > 0
    assert 0 < result.efficiency <= 1
    assert result.efficiency == pytest.approx(result.roofline_s / result.decode_s)
    assert result.peak_rss_bytes > 50 * 2**20
    data = json.loads(json.dumps(result.as_json()))
    is_one = len(result.token_ids) == 1
    assert data["token_ids"] == (result.token_ids[0] if is_one else result.token_ids)
    assert data["text"] == (result.text[0] if is_one else result.text)
    assert data["bottleneck"] in ("compute", "nvme->device", "host->device")


def test_a_single_token(tiny_llama: Path, plain: PreTrainedModel) -> None:
    """There is no decode step to measure."""
    result = run(RunConfig(), tiny_llama, prompt_ids=[7, 8, 9], max_new_tokens=1)
    assert result.token_ids == [expected(plain, [7, 8, 9], 1)]
    assert (result.decode_tokens_per_s, result.efficiency) == (0.0, 1.0)
    json.dumps(result.as_json())


def test_stops_at_the_end_of_the_sequence(tiny_llama: Path, tmp_path: Path, plain: PreTrainedModel) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_llama.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    endless = expected(plain, [7, 8, 9], 8)
    last = next(i for i in range(1, 8) if endless[i] not in endless[:i])
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": endless[last]}))
    result = run(RunConfig(), model, prompt_ids=[7, 8, 9], max_new_tokens=8)
    assert result.token_ids == [endless[: last + 1]]


def test_writes_a_trace(tiny_llama: Path, tmp_path: Path) -> None:
    config = streamed(tiny_llama, tmp_path, prompt_tokens=150, new_tokens=3)
    result = run(config, tiny_llama, prompt_ids=[9] * 150, max_new_tokens=3, trace_out=tmp_path / "run.json")
    assert result.timeline is not None
    assert {"compute", "nvme->device"} <= result.timeline["busy"].keys()
    events = json.loads((tmp_path / "run.json").read_text())["traceEvents"]
    rows = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"compute", "nvme->device"} <= rows
    names = {event["name"] for event in events if event["ph"] == "X"}
    assert {"embedding", "head", "layer 0", "layer 3"} <= names


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "either as text or as token ids, or several"),
        ({"prompt": "a", "prompt_ids": [1]}, "either as text or as token ids"),
        ({"prompt_ids": [1], "prompts": ["a"]}, "either as text or as token ids"),
        ({"prompts": ["a", ""]}, "the prompt is empty"),
        ({"prompts": []}, "the prompt is empty"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt_ids": []}, "the prompt is empty"),
        ({"prompt_ids": [1], "max_new_tokens": 0}, "new tokens 0: must be at least 1"),
        ({"prompt_ids": [1], "max_new_tokens": -1}, "new tokens -1"),
        ({"prompt_ids": [1], "prompt_tokens": 0}, "prompt tokens 0: must be at least 1"),
        ({"prompt_ids": [1], "max_new_tokens": 10**6}, "exceed the context of 8192"),
        ({"prompt_ids": [1, 512]}, "token id 512 is not in the vocabulary of 512"),
    ],
)
def test_refused(tiny_llama: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidOptionError, match=reason):
        run(RunConfig(), tiny_llama, **options)


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="give a Hugging Face model directory"):
        run(RunConfig(), tmp_path, prompt="Hello")


def test_token_ids_need_no_tokenizer(tiny_llama: Path, tmp_path: Path, plain: PreTrainedModel) -> None:
    """The text is then the ids."""
    for file in tiny_llama.iterdir():
        if not file.name.startswith("tokenizer"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    pieces: list[str] = []
    result = run(RunConfig(), tmp_path, prompt_ids=[7, 8, 9], max_new_tokens=4, on_text=pieces.append)
    assert result.token_ids == [expected(plain, [7, 8, 9], 4)]
    assert result.text == ["".join(f" {token}" for token in result.token_ids[0])] == ["".join(pieces)]


def test_no_tokenizer_there(tiny_llama: Path, tmp_path: Path) -> None:
    for file in tiny_llama.iterdir():
        if not file.name.startswith("tokenizer"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded") as raised:
        run(RunConfig(), tmp_path, prompt="Hello")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("callback", ["on_text", "on_status", "on_plan", "progress"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_nothing_is_left_when_somebody_stops_it(
    tiny_llama: Path, tmp_path: Path, callback: str, error: type[BaseException]
) -> None:
    config = streamed(tiny_llama, tmp_path, prompt_tokens=150, new_tokens=5)

    def stop(*_: object) -> None:
        raise error

    callbacks: dict[str, Any] = {callback: stop}
    before = open_fds(), threading.active_count()
    with pytest.raises(error):
        run(config, tiny_llama, prompt_ids=[9] * 150, max_new_tokens=5, **callbacks)
    assert (open_fds(), threading.active_count()) == before
    assert not (tmp_path / "nvme").exists()
