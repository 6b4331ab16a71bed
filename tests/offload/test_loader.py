"""From a directory and a budget to a model: what is checked, what is read, and that nothing is left of a failure."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import offload
from offload.config import RunConfig
from offload.loader import load_model
from offload.pack import pack
from offload.plan import Plan, Workload
from offload.prospect import open_prospect, plan_for
from offload.session import plan_model
from simulators.profile import DEFAULT
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tests.tiers.kit import open_fds
from tiers.errors import BudgetError, InvalidOptionError, ModelError

WORKLOAD: dict[str, Any] = {"prompt_tokens": 20, "new_tokens": 8}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def path(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change_config(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def fails(path: Path, error: type[Exception], reason: str, **options: Any) -> None:
    """``load`` raises with one line, and no file, thread or directory is left."""
    before = open_fds(), threading.active_count()
    with pytest.raises(error, match=reason) as raised:
        offload.load(path, **{**WORKLOAD, **options})
    assert "\n" not in str(raised.value)
    assert (open_fds(), threading.active_count()) == before


def rename(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


NORM = "model.norm.weight"
PROJECTION = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda tensors: tensors.pop(NORM),
            r"1 weights are missing, such as model.norm.weight; is config.json its own",
        ),
        (lambda tensors: rename(tensors, NORM, "model.extra.weight"), r"no place for the tensor model.extra.weight"),
        (
            lambda tensors: tensors.update({PROJECTION: tensors[PROJECTION].T.contiguous()}),
            r"up_proj.weight has the shape \(64, 96\), config.json says \(96, 64\)",
        ),
        (
            lambda tensors: tensors.update({NORM: tensors[NORM].half()}),
            r"tensors of several types .*; pack it with one",
        ),
        (lambda tensors: tensors.update({PROJECTION: tensors[PROJECTION].half()}), "tensors of several types"),
    ],
)
def test_tensors_that_are_not_the_models(
    path: Path, change: Callable[[dict[str, torch.Tensor]], object], reason: str
) -> None:
    change_tensors(path, change)
    fails(path, ModelError, reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "no_such_model"}, "names no architecture that transformers knows"),
        ({"model_type": "t5"}, "'t5' is not a causal language model"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised checkpoints are not supported"),
        ({"num_hidden_layers": 5}, "no tensors of decoder layer 4"),
        ({"hidden_size": 128}, "config.json says"),
        ({"num_key_value_heads": 4}, "config.json says"),
    ],
)
def test_configurations_that_do_not_fit(path: Path, changes: dict[str, object], reason: str) -> None:
    change_config(path, **changes)
    fails(path, ModelError, reason)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_configuration(path: Path, text: str) -> None:
    (path / "config.json").write_text(text)
    fails(path, ModelError, "config.json")


def test_a_damaged_generation_config(path: Path) -> None:
    (path / "generation_config.json").write_text("{")
    fails(path, ModelError, r"generation_config.json: .*; get the model again")


def test_tensors_that_old_checkpoints_hold(path: Path) -> None:
    """Frequencies that are computed nowadays, in a type of their own."""
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    change_tensors(path, lambda tensors: tensors.update({name: torch.ones(8, dtype=torch.float64)}))
    with loaded(path, **WORKLOAD) as model:
        assert generate(model, make_inputs(20)) == generate(plain_model(path), make_inputs(20))


def test_masks_that_old_gpt2_checkpoints_hold(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "gpt2", n_embd=64, n_layer=4, n_head=4)
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16)}
    change_tensors(path, lambda tensors: tensors.update(mask))
    with loaded(path, **WORKLOAD) as model:
        assert generate(model, make_inputs(20)) == generate(plain_model(path), make_inputs(20))


def test_says_how_to_change_the_type(path: Path) -> None:
    fails(
        path, InvalidOptionError, r"--dtype bfloat16: .* is stored as float32 .*; run 'offload pack", dtype="bfloat16"
    )
    with loaded(path, dtype="float32", **WORKLOAD) as model:
        assert model.dtype == torch.float32


@pytest.mark.parametrize("is_packed", [False, True])
def test_ends_where_the_model_says(path: Path, tmp_path: Path, is_packed: bool) -> None:
    """generation_config.json names two tokens that end a sequence, and a kind of cache that does not concern us."""
    plain = plain_model(path)
    inputs = make_inputs(20)
    endless = generate(plain, inputs, 8)[0]
    last = next(i for i in range(1, 8) if endless[i] not in endless[:i])
    settings = {"eos_token_id": [199, endless[last]], "pad_token_id": 2, "cache_implementation": "hybrid"}
    (path / "generation_config.json").write_text(json.dumps(settings))
    if is_packed:
        pack(path, tmp_path / "packed")
    with loaded(tmp_path / "packed" if is_packed else path, **WORKLOAD) as model:
        assert generate(model, inputs, 8, min_new_tokens=0) == [endless[: last + 1]]


def test_reports_progress(path: Path) -> None:
    reports: list[tuple[int, int]] = []
    with loaded(path, progress=lambda done, total: reports.append((done, total)), **WORKLOAD) as model:
        assert reports[-1] == (model.plan.resident_nbytes, model.plan.resident_nbytes)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_while_it_loads(path: Path, tmp_path: Path, error: type[BaseException]) -> None:
    least = smallest_budget(path, tmp_path / "nvme", prompt_tokens=200, new_tokens=8)

    def stop(done: int, total: int) -> None:
        raise error

    before = open_fds(), threading.active_count()
    with pytest.raises(error):
        offload.load(
            path, prompt_tokens=200, new_tokens=8, device_memory=least, nvme_dir=tmp_path / "nvme", progress=stop
        )
    assert (open_fds(), threading.active_count()) == before
    assert not (tmp_path / "nvme").exists()


def test_a_directory_that_is_in_use(path: Path, tmp_path: Path) -> None:
    workload: dict[str, Any] = {"prompt_tokens": 200, "new_tokens": 8}
    least = smallest_budget(path, tmp_path / "nvme", **workload)
    budget = {"device_memory": least, "nvme_dir": tmp_path / "nvme"}
    with loaded(path, **workload, **budget):
        fails(path, Exception, "another run is using it", **workload, **budget)


def test_closing_twice(path: Path, tmp_path: Path) -> None:
    before = open_fds(), threading.active_count()
    least = smallest_budget(path, tmp_path / "nvme", prompt_tokens=200, new_tokens=8)
    model = offload.load(path, prompt_tokens=200, new_tokens=8, device_memory=least, nvme_dir=tmp_path / "nvme")
    cache = model.new_cache()
    generate(model, make_inputs(200), 3, past_key_values=cache)
    model.close()
    model.close()
    cache.close()
    assert (open_fds(), threading.active_count()) == before
    assert not (tmp_path / "nvme").exists()


def test_prompts_beyond_the_context(path: Path) -> None:
    reason = "exceed the context of 512: shorten the prompt to 504 tokens"
    fails(path, InvalidOptionError, reason, prompt_tokens=600)


def test_no_budget_error_without_a_cure(path: Path, tmp_path: Path) -> None:
    fails(path, BudgetError, r"the smallest that works is .*--nvme-dir", device_memory="64KiB")
    fails(path, BudgetError, r"the smallest that works is \d+MiB", device_memory="64KiB", nvme_dir=tmp_path / "nvme")


def test_the_drive_has_room_to_grow_as_far_as_it_may(path: Path, tmp_path: Path) -> None:
    """For the model's whole context, or for as much as was allowed; never for less than the plan wants."""
    workload: dict[str, Any] = {"prompt_tokens": 200, "new_tokens": 8}
    least = smallest_budget(path, tmp_path / "nvme", **workload)
    budget: dict[str, Any] = {"device_memory": least, "nvme_dir": tmp_path / "nvme"}
    with loaded(path, **workload, **budget) as model:
        assert model.runtime.kv_levels[-1].tier.num_slots == 4 * 512 // 64
        wanted = model.plan.kv_nvme_blocks
        block = model.plan.kv_block_nbytes
    with loaded(path, **workload, **budget, nvme_memory=(wanted + 5) * block) as model:
        assert model.runtime.kv_levels[-1].tier.num_slots == wanted + 5


def test_plans_without_loading(path: Path) -> None:
    before = open_fds()
    plan = plan_model(RunConfig(), path, Workload(1, 20, 8))
    assert isinstance(plan, Plan)
    assert open_fds() == before


def test_keeps_within_the_plan(path: Path, tmp_path: Path) -> None:
    """What the runtime says of its tiers is what was planned."""
    prospect = open_prospect(path)
    config = RunConfig(device_memory=1_200_000, nvme_dir=tmp_path / "nvme")
    workload = Workload(2, 100, 8)
    plan = plan_for(prospect, config, workload, DEFAULT)
    model = load_model(prospect, plan, config, workload)
    try:
        generate(model, make_inputs(100, (0, 30)))
        usage = model.runtime.tier_usage()
        occupancy = model.runtime.tier_occupancy()
    finally:
        model.close()
    assert usage["device"]["peak_bytes"] <= usage["device"]["capacity_bytes"] <= 1_200_000
    assert usage["nvme"]["peak_bytes"] <= usage["nvme"]["capacity_bytes"]
    assert occupancy["device"][0] < occupancy["device"][1] == usage["device"]["capacity_bytes"]
    assert occupancy["nvme"][0] == 0
