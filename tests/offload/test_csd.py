"""Models whose keys and values live in computational drives: the same tokens, few bytes, and clear refusals."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import offload
from offload.config import RunConfig
from offload.kv.drives import KVDrives
from offload.offloaded_model import OffloadedModel
from offload.plan import Workload
from offload.prospect import open_prospect, plan_for
from simulators.profile import DEFAULT
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tests.tiers.kit import open_fds
from tiers.csd.wire import Opcode
from tiers.errors import BudgetError, DeviceGoneError, InvalidOptionError, ModelError
from tiers.tier import align_up

NEW = 6
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma3_text": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gpt_oss": {
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
}


def drives_of(model: OffloadedModel) -> KVDrives:
    assert model.runtime.drives is not None
    return model.runtime.drives


def kill_drive(model: OffloadedModel) -> None:
    os.kill(drives_of(model)._drives.drives[0].pid, signal.SIGKILL)


def check_newest(model: OffloadedModel) -> None:
    """What was set aside for them was used, is free again, and is counted once: there is one memory."""
    room = drives_of(model).newest.room
    assert (room.peak_nbytes, room.used_nbytes) == (room.capacity_nbytes, 0)
    assert room.capacity_nbytes == model.plan.newest_nbytes
    assert model.plan.placement()["host"]["bytes"] == 0
    assert "host" not in {*model.runtime.tier_usage(), *model.runtime.tier_occupancy()}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), request.param, **FAMILIES[request.param])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.mark.parametrize("csd", [1, 2])
def test_the_same_tokens_with_padding_and_a_prompt_in_pieces(checkpoint: Path, tmp_path: Path, csd: int) -> None:
    inputs = make_inputs(70, (0, 9, 69))
    expected = generate(plain_model(checkpoint), inputs, NEW)
    with loaded(checkpoint, prompt_tokens=70, new_tokens=NEW, batch=3, csd=csd, nvme_dir=tmp_path / "d") as model:
        assert generate(model, inputs, NEW) == expected
        assert generate(model, inputs, NEW, prefill_chunk_size=32) == expected
        assert not drives_of(model).usage.nbytes
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("write_back", [1, 5, 16])
def test_the_same_tokens_where_the_host_keeps_the_newest(checkpoint: Path, tmp_path: Path, write_back: int) -> None:
    """Rows of a padded batch are written at different steps, and one starts with fewer tokens than a write has."""
    inputs = make_inputs(70, (0, 9, 69))
    expected = generate(plain_model(checkpoint), inputs, NEW)
    drives = {"csd": 2, "nvme_dir": tmp_path / "d", "write_back": write_back}
    with loaded(checkpoint, prompt_tokens=70, new_tokens=NEW, batch=3, **drives) as model:
        assert generate(model, inputs, NEW) == expected
        assert generate(model, inputs, NEW, prefill_chunk_size=32) == expected
        assert not drives_of(model).usage.nbytes
        check_newest(model)


WITHOUT_SHARED_HEADS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 4},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "gemma3_text": {"num_key_value_heads": 4, "head_dim": 32, **FAMILIES["gemma3_text"]},
    "qwen3": {"num_key_value_heads": 4, "head_dim": 16},
}


@pytest.mark.parametrize("share", ["1/2", "1"])
@pytest.mark.parametrize("family", WITHOUT_SHARED_HEADS)
def test_the_same_tokens_where_inputs_are_stored(tmp_path: Path, family: str, share: str) -> None:
    """Keys and values are made again, with norms and rotation, for rows of different lengths and a prompt in pieces."""
    path = save_model(tmp_path / "model", family, **WITHOUT_SHARED_HEADS[family])
    inputs = make_inputs(70, (0, 9, 69))
    expected = generate(plain_model(path), inputs, NEW)
    drives = {"csd": 2, "nvme_dir": tmp_path / "d", "write_back": 5, "x_cache": share}
    with loaded(path, prompt_tokens=70, new_tokens=NEW, batch=3, **drives) as model:
        assert generate(model, inputs, NEW) == expected
        assert generate(model, inputs, NEW, prefill_chunk_size=32) == expected
        assert not drives_of(model).usage.nbytes
        check_newest(model)


def test_inputs_meet_weights_that_are_streamed(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "llama", num_key_value_heads=4)
    options: dict[str, Any] = {"csd": 1, "write_back": 16, "x_cache": 0.5, "prompt_tokens": 40, "new_tokens": NEW}
    inputs, least = make_inputs(40), smallest_budget(path, tmp_path / "d", **options)
    with loaded(path, **options, nvme_dir=tmp_path / "d", device_memory=least) as model:
        assert model.plan.streamed
        assert generate(model, inputs, NEW) == generate(plain_model(path), inputs, NEW)


def test_inputs_take_half_of_keys_and_values(tmp_path: Path) -> None:
    """Of OPT, which turns none of them by its position. They come back in every step."""
    path = save_model(tmp_path / "model", "opt", **WITHOUT_SHARED_HEADS["opt"])
    stored, read = [], []
    for share in (0, 0.5, 1):
        drives = {"csd": 1, "nvme_dir": tmp_path / "d", "write_back": 16, "x_cache": share}
        with loaded(path, prompt_tokens=64, new_tokens=NEW, **drives) as model:
            generate(model, make_inputs(64), NEW)
            stored.append(drives_of(model).usage.peak_nbytes)
            read.append(drives_of(model).traffic()[Opcode.READ_KV].received_nbytes)
            assert drives_of(model).link_nbytes > read[-1]
            assert drives_of(model).links()["csd->device"][1] > 0, "also where all that is waited for are inputs"
    of_token = 4 * 2 * 64 * 4
    assert stored == [64 * of_token, 48 * of_token, 32 * of_token]
    assert read == [0, (NEW - 1) * 16 * of_token, (NEW - 1) * 32 * of_token]


def test_keys_that_their_input_does_not_make(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "llama", num_key_value_heads=4)
    options: dict[str, Any] = {"csd": 1, "nvme_dir": tmp_path, "write_back": 16, "x_cache": 1}
    with loaded(path, prompt_tokens=40, new_tokens=NEW, **options) as model:
        keys = model.get_submodule("model.layers.0.self_attn.k_proj")
        keys.register_forward_hook(lambda _, __, made: made + torch.randn_like(made))
        with pytest.raises(ModelError, match=r"LlamaAttention makes keys and values in a way .* without --x-cache"):
            generate(model, make_inputs(40), NEW)


def test_inputs_that_would_take_more_than_keys_and_values(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--x-cache: the input .* has 96 numbers in a layer, they have 64"):
        offload.load(llama, csd=1, nvme_dir=tmp_path / "d", write_back=16, x_cache=0.5)
    assert not (tmp_path / "d").exists()


def test_a_step_sends_a_token_and_gets_its_attention(llama: Path, tmp_path: Path) -> None:
    with loaded(llama, prompt_tokens=40, new_tokens=NEW, batch=2, csd=1, nvme_dir=tmp_path) as model:
        drives, config = drives_of(model), model.config
        moved = []
        for new in (2, 3):
            before = drives.links()
            generate(model, make_inputs(40, (0, 0)), new)
            moved.append({name: nbytes - before[name][0] for name, (nbytes, _) in drives.links().items()})
    head = config.hidden_size // config.num_attention_heads * 4 * 2 * config.num_hidden_layers
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    headers = config.num_hidden_layers * (64 + 32 + 2 * 8)
    assert moved[1]["device->csd"] - moved[0]["device->csd"] == (heads + 2 * kv_heads) * head + headers
    logsumexp = 4 * 2 * heads * config.num_hidden_layers
    assert moved[1]["csd->device"] - moved[0]["csd->device"] == heads * head + logsumexp


def test_half_precision_keeps_to_its_tolerance(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "llama", dtype=torch.bfloat16)
    inputs = make_inputs(50)
    plain = plain_model(path, torch.bfloat16)
    with torch.inference_mode(), loaded(path, prompt_tokens=50, new_tokens=2, csd=1, nvme_dir=tmp_path) as model:
        expected, ours = plain(**inputs, use_cache=True), model(**inputs)
        step = {"input_ids": torch.tensor([[5]]), "use_cache": True}
        wanted = plain(**step, past_key_values=expected.past_key_values).logits
        found = model(**step, past_key_values=ours.past_key_values).logits
        assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_a_drive_that_dies_fails_the_request_and_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    fds = open_fds()
    with loaded(llama, prompt_tokens=40, new_tokens=NEW, csd=1, nvme_dir=tmp_path) as model:
        cache = model.new_cache()
        model(**make_inputs(40), past_key_values=cache)
        kill_drive(model)
        with pytest.raises(DeviceGoneError, match="csd0"):
            model(input_ids=torch.tensor([[5]]), past_key_values=cache)
    assert open_fds() <= fds


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_a_cache_may_be_closed_after_its_drives(llama: Path, tmp_path: Path, how: str) -> None:
    """There is nothing to give back any more, so nobody has to hear of it."""
    with loaded(llama, prompt_tokens=40, new_tokens=NEW, csd=2, nvme_dir=tmp_path) as model:
        cache = model.new_cache()
        model(**make_inputs(40), past_key_values=cache)
        if how == "killed":
            kill_drive(model)
            cache.close()
    cache.close()


def test_what_drives_cannot_do_is_refused(llama: Path, tmp_path: Path) -> None:
    with loaded(llama, prompt_tokens=40, new_tokens=NEW, csd=1, nvme_dir=tmp_path) as model:
        with pytest.raises(InvalidOptionError, match=r"cannot be (copied|reordered).*without --csd"):
            generate(model, make_inputs(40), num_beams=2)
        cache = model.new_cache()
        model(**make_inputs(40), past_key_values=cache)
        with pytest.raises(InvalidOptionError, match="cannot be rolled back"):
            cache.crop(20)
        cache.close()


@pytest.mark.parametrize("attention", ["in-storage-sparse", "in-storage-sparf"])
def test_sparse_attention_tells_what_it_missed(llama: Path, tmp_path: Path, attention: str) -> None:
    """All of it read is exact; a part of it is not, and how far off it was is measured."""
    inputs = make_inputs(400)
    errors = []
    for compression in ("1", "1/4"):
        drives = {"csd": 1, "attention": attention, "compression": compression, "nvme_dir": tmp_path}
        with loaded(llama, prompt_tokens=400, new_tokens=NEW, **drives) as model:
            generate(model, inputs, NEW)
            errors.append(drives_of(model).attention_error or 0.0)
    assert errors[0] < 1e-5
    assert 1e-3 < errors[1] < 1


def test_dense_layers_miss_nothing(llama: Path, tmp_path: Path) -> None:
    """Layers by number, down to none that misses anything."""
    inputs = make_inputs(400)
    sparse: dict[str, Any] = {"csd": 1, "attention": "in-storage-sparse", "compression": "1/4", "nvme_dir": tmp_path}
    errors = []
    for layers in ("0,1,2,3", "1,2,3"):
        with loaded(llama, prompt_tokens=400, new_tokens=NEW, **sparse, dense_layers=layers) as model:
            generate(model, inputs, NEW)
            errors.append(drives_of(model).attention_error or 0.0)
    assert errors[0] < 1e-5 < 1e-3 < errors[1]
    with pytest.raises(InvalidOptionError, match="dense_layers names layer 4; there are 4, from 0"):
        offload.load(llama, **sparse, dense_layers=(4,))


def test_newest_tokens_are_part_of_the_hosts_budget(llama: Path, tmp_path: Path) -> None:
    """A larger batch than was planned for finds no room there: its tokens travel with their queries."""
    options: dict[str, Any] = {"csd": 1, "nvme_dir": tmp_path, "prompt_tokens": 40, "new_tokens": NEW, "write_back": 16}
    wanted = 16 * 4 * 2 * 2 * 16 * 4
    with pytest.raises(BudgetError, match=f"--write-back 16 keeps {wanted:,} bytes .* which may have 4,096; raise"):
        offload.load(llama, **options, host_memory="4KiB")
    with loaded(llama, **options, host_memory=wanted) as model:
        assert model.plan.placement()["host"]["newest_kv_bytes"] == wanted
        for padding in ((0,), (0, 3, 5)):
            inputs = make_inputs(40, padding)
            assert generate(model, inputs, NEW) == generate(plain_model(llama), inputs, NEW)
            assert model.runtime.tier_usage()["host"] == {"capacity_bytes": wanted, "peak_bytes": wanted}


@pytest.mark.parametrize("batch", [1, 4])
def test_newest_tokens_are_part_of_the_only_budget(llama: Path, batch: int) -> None:
    """To the byte where there is no other, beside what comes back of one sequence at a time."""
    prospect = open_prospect(llama)
    prospect.source.close()
    plans = [
        plan_for(prospect, RunConfig(csd=1, batch=batch, write_back=count), Workload(batch, 40, NEW), DEFAULT)
        for count in (0, 16)
    ]
    newest = 16 * batch * 4 * 2 * 2 * 16 * 4
    assert [plan.newest_nbytes for plan in plans] == [0, newest]
    assert plans[1].device_bytes_used - plans[0].device_bytes_used == newest
    assert [plan.placement()["host"]["bytes"] for plan in plans] == [0, 0]
    of_chunk = batch * (64 * prospect.sizes.workspace_nbytes_per_token + prospect.sizes.workspace_nbytes_fixed)
    assert plans[0].workspace_bytes == align_up(of_chunk + 40 * 2 * 2 * 16 * 4)


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("deepseek_v3", {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}, "latents"),
        ("mistral", {"sliding_window": 16}, "every layer has a sliding window"),
    ],
)
def test_models_that_drives_are_no_use_for(tmp_path: Path, family: str, changes: dict[str, Any], said: str) -> None:
    path = save_model(tmp_path / "model", family, **changes)
    with pytest.raises(ModelError, match=said):
        offload.load(path, csd=1, nvme_dir=tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_more_drives_than_heads(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="2 KV heads cannot be split over 5 drives"):
        offload.load(llama, csd=5, nvme_dir=tmp_path / "d")
    assert not (tmp_path / "d").exists()
    path = save_model(tmp_path / "model", "llama", num_key_value_heads=4)
    with pytest.raises(InvalidOptionError, match=r"--x-cache stores .* as 3 heads, .* over --csd 4 .*; use --csd 3 at"):
        offload.load(path, csd=4, nvme_dir=tmp_path / "d", write_back=16, x_cache=0.5)
    assert not (tmp_path / "d").exists()
