"""Drives that fail while a model runs: the request ends in a clear error or in the right tokens, never in others."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

import offload
from offload.offloaded_model import OffloadedModel
from offload.pack import pack
from tests.offload.zoo import VOCABULARY, generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tests.tiers.kit import mounted, open_fds
from tiers.errors import CorruptBlockError, DiskFullError, InvalidOptionError, TransferError, WorldError
from tiers.fault_injection import Fault, FaultPlan, FaultyTier
from tiers.nvme_tier import NVMeTier
from tiers.transfer import TransferConfig

PROMPT, NEW = 200, 6
WORKLOAD: dict[str, Any] = {"prompt_tokens": PROMPT, "new_tokens": NEW, "batch": 1}
INPUTS = make_inputs(PROMPT)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[list[int]]:
    return generate(plain_model(checkpoint), INPUTS, NEW)


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """Files that a test may damage."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def packed(checkpoint: Path, tmp_path: Path) -> Path:
    pack(checkpoint, tmp_path / "packed")
    return tmp_path / "packed"


@contextmanager
def in_the_least_memory(path: Path, nvme_dir: Path, **options: Any) -> Iterator[OffloadedModel]:
    """All layers are streamed and most of the KV cache is on the drive; nothing is left of it at the end."""
    least = smallest_budget(path, nvme_dir, **WORKLOAD)
    before = open_fds(), threading.active_count()
    with loaded(path, device_memory=least, nvme_dir=nvme_dir, **WORKLOAD, **options) as model:
        assert model.plan.kv_nvme_blocks
        yield model
    assert (open_fds(), threading.active_count()) == before
    assert not nvme_dir.exists()


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("array", ["layers.2", "head"])
def test_a_damaged_packed_store(packed: Path, tmp_path: Path, array: str) -> None:
    """A flipped bit of a layer, or of the head, that is streamed."""
    flip(packed / array / "c" / "0" / "0", 777)
    with in_the_least_memory(packed, tmp_path / "nvme") as model:
        for _ in range(2):
            with pytest.raises(CorruptBlockError, match=rf"{array}.* is corrupt"):
                generate(model, INPUTS, NEW)


@pytest.mark.parametrize("budget", ["least", "all"])
@pytest.mark.parametrize("array", ["embedding", "rest"])
def test_a_packed_store_damaged_where_it_is_read_once(packed: Path, tmp_path: Path, array: str, budget: str) -> None:
    """Also in the embedding, of which only rows are read that no checksum covers: it is checked when it is loaded."""
    flip(packed / array / "c" / "0" / "0", 100)
    before = open_fds(), threading.active_count()
    options: dict[str, Any] = {} if budget == "all" else {"nvme_dir": tmp_path / "nvme"}
    if options:
        options["device_memory"] = smallest_budget(packed, tmp_path / "nvme", **WORKLOAD)
    with pytest.raises(CorruptBlockError, match=rf"{array}.* is corrupt"):
        offload.load(packed, **WORKLOAD, **options)
    assert (open_fds(), threading.active_count()) == before
    assert not (tmp_path / "nvme").exists()


def test_the_command_says_so_in_one_line(tiny_llama: Path, tmp_path: Path) -> None:
    pack(tiny_llama, tmp_path / "packed")
    flip(tmp_path / "packed" / "layers.3" / "c" / "0" / "0", 777)
    command = [sys.executable, "-m", "offload.cli", "run", str(tmp_path / "packed"), "--prompt", "Hello", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "layers.3 of" in line
    assert "is corrupt" in line


def test_a_checkpoint_that_is_truncated_while_it_is_read(
    copied: Path, tmp_path: Path, expected: list[list[int]]
) -> None:
    with in_the_least_memory(copied, tmp_path / "nvme") as model:
        assert generate(model, INPUTS, NEW) == expected
        os.truncate(copied / "model.safetensors", 100_000)
        for _ in range(2):
            with pytest.raises(TransferError, match="bytes"):
                generate(model, INPUTS, NEW)


def drive(model: OffloadedModel) -> NVMeTier:
    tier = model.runtime.kv_levels[-1].tier
    assert isinstance(tier, NVMeTier)
    return tier


def test_bits_that_flip_in_the_kv_cache(checkpoint: Path, tmp_path: Path, expected: list[list[int]]) -> None:
    """Through the file itself, in every slot of the drive; afterwards the model works as before."""
    with in_the_least_memory(checkpoint, tmp_path / "nvme") as model, model.new_cache() as cache:
        tier = drive(model)
        said = generate(model, INPUTS, NEW, past_key_values=cache)
        assert said == expected
        for slot in range(tier.num_slots):
            flip(Path(f"/proc/self/fd/{tier._fd}"), slot * tier.block_nbytes + 4321)
        ids = torch.cat([INPUTS["input_ids"], torch.tensor(said)], 1)
        with pytest.raises(CorruptBlockError, match="stopped before a wrong token"):
            generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, past_key_values=cache)
        assert generate(model, INPUTS, NEW) == expected


def sabotage(model: OffloadedModel, plan: FaultPlan) -> FaultyTier:
    """Put a failing drive in the place of the one that holds KV blocks, with a link that weights do not share."""
    level = model.runtime.kv_levels[-1]
    tier = level.tier = FaultyTier(level.tier, plan)
    tier.name = "scratch"
    return tier


@pytest.mark.parametrize("fault", [Fault.IO_ERROR, Fault.SHORT, Fault.BIT_FLIP, Fault.GONE])
@pytest.mark.parametrize("index", [0, 1, 7])
def test_one_read_that_fails(
    checkpoint: Path, tmp_path: Path, expected: list[list[int]], fault: Fault, index: int
) -> None:
    """Once: whoever is hit by it ends, and the next request is served."""
    with in_the_least_memory(checkpoint, tmp_path / "nvme") as model:
        tier = sabotage(model, FaultPlan(reads={index: fault}))
        results = [outcome(model) for _ in range(2)]
        assert tier.faults.injected[fault] == 1
        assert expected in results
        assert all(result == expected or isinstance(result, WorldError) for result in results)


@pytest.mark.parametrize("fault", [Fault.IO_ERROR, Fault.NO_SPACE, Fault.SHORT])
def test_a_drive_that_cannot_be_written(
    checkpoint: Path, tmp_path: Path, expected: list[list[int]], fault: Fault
) -> None:
    """Nothing is lost as long as there is another copy; where there is none, the request ends."""
    with in_the_least_memory(checkpoint, tmp_path / "nvme") as model:
        tier = sabotage(model, FaultPlan(writes=dict.fromkeys(range(40), fault)))
        results = [outcome(model) for _ in range(30) if tier.faults.num_writes < 60]
        assert tier.faults.injected[fault] == 40
        assert isinstance(results[0], WorldError)
        assert results[-1] == expected
        assert all(result == expected or isinstance(result, WorldError) for result in results)


@pytest.mark.parametrize("seed", range(6))
def test_a_drive_that_fails_now_and_then(
    checkpoint: Path, tmp_path: Path, expected: list[list[int]], seed: int
) -> None:
    with in_the_least_memory(checkpoint, tmp_path / "nvme") as model:
        tier = sabotage(model, FaultPlan(rate=0.01, seed=seed))
        for _ in range(8):
            result = outcome(model)
            assert result == expected or isinstance(result, WorldError)
        assert tier.faults.injected


def test_a_drive_that_hangs(checkpoint: Path, tmp_path: Path, expected: list[list[int]]) -> None:
    """It is reported after the time-out and not waited for; when it comes back, so does the model."""
    transfer = TransferConfig(stall_timeout_s=0.3)
    with in_the_least_memory(checkpoint, tmp_path / "nvme", transfer=transfer) as model:
        tier = sabotage(model, FaultPlan(reads={2: Fault.HANG}))
        with pytest.raises(TransferError, match=r"no answer for 0\.3 s"):
            generate(model, INPUTS, NEW)
        tier.release()
        results = [outcome(model) for _ in range(3)]
        assert results[-1] == expected


def test_weights_from_a_drive_that_fails_now_and_then(packed: Path, tmp_path: Path, expected: list[list[int]]) -> None:
    with in_the_least_memory(packed, tmp_path / "nvme") as model:
        streamer = model.runtime.streamer
        assert streamer is not None
        assert streamer.manager.backing is model.runtime.source
        source = FaultyTier(model.runtime.source, FaultPlan(rate=0.02, seed=1))
        source.name = "weights"
        streamer.manager.backing = streamer.manager._placement.backing = source
        results = [outcome(model) for _ in range(10)]
        assert all(result == expected or isinstance(result, WorldError) for result in results)
        assert any(isinstance(result, WorldError) for result in results)
        assert expected in results


def outcome(model: OffloadedModel) -> list[list[int]] | WorldError:
    try:
        return generate(model, INPUTS, NEW)
    except WorldError as error:
        model.runtime.kv.manager.check()
        return error


@pytest.mark.parametrize("calls", [1, 5, 20, 60])
def test_ctrl_c_while_the_model_waits(checkpoint: Path, tmp_path: Path, expected: list[list[int]], calls: int) -> None:
    """Wherever it comes, the next request is served, and every slot comes back."""
    with in_the_least_memory(checkpoint, tmp_path / "nvme") as model:
        engine = model.runtime.engine
        wait, count = engine.wait, 0

        def interrupted(transfer: Any) -> None:
            nonlocal count
            count += 1
            if count == calls:
                raise KeyboardInterrupt
            wait(transfer)

        with patch.object(engine, "wait", interrupted), pytest.raises(KeyboardInterrupt):
            generate(model, INPUTS, NEW)
        assert generate(model, INPUTS, NEW) == expected


def test_a_request_that_fails_leaves_other_conversations_alone(
    checkpoint: Path, tmp_path: Path, expected: list[list[int]]
) -> None:
    with in_the_least_memory(checkpoint, tmp_path / "nvme") as model, model.new_cache() as cache:
        first = make_inputs(40)
        said = generate(model, first, 4, past_key_values=cache)
        with pytest.raises(IndexError):
            generate(model, {"input_ids": torch.tensor([[3, VOCABULARY + 9]])})
        with pytest.raises(InvalidOptionError):
            generate(model, make_inputs(60, (0, 0)), past_key_values=cache)
        ids = torch.cat([first["input_ids"], torch.tensor(said)], 1)
        more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        assert generate(model, more, 4, past_key_values=cache) == generate(plain_model(checkpoint), more, 4)


def test_no_room_on_the_drive(checkpoint: Path, tmp_path: Path) -> None:
    """Found out before anything is loaded; nothing stays behind."""
    least = smallest_budget(checkpoint, tmp_path / "nvme", **WORKLOAD)
    before = open_fds(), threading.active_count()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with patch("os.posix_fallocate", side_effect=full), pytest.raises(DiskFullError, match="free some space"):
        offload.load(checkpoint, device_memory=least, nvme_dir=tmp_path / "nvme", **WORKLOAD)
    assert (open_fds(), threading.active_count()) == before
    assert not (tmp_path / "nvme").exists()


@pytest.fixture
def ram_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that refuses O_DIRECT."""
    yield from mounted(tmp_path, "ramfs", "mode=700")


def test_a_file_system_without_o_direct_is_said(checkpoint: Path, ram_disk: Path, expected: list[list[int]]) -> None:
    """It works through the page cache, for weights and for KV blocks."""
    model_path = ram_disk / "model"
    shutil.copytree(checkpoint, model_path)
    with in_the_least_memory(model_path, ram_disk / "nvme") as model:
        assert generate(model, INPUTS, NEW) == expected
        assert model.runtime.notes == [
            f"nvme: O_DIRECT refused by the file system of {ram_disk / 'nvme'}: Invalid argument",
            f"weights: read through the page cache, no O_DIRECT for {model_path}",
        ]
