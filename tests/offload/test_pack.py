import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from offload.checkpoint.source import open_source
from offload.pack import pack
from tests.offload.checkpoints import assert_same_tensors, save_llama, stored_tensors, tensors_of
from tiers.errors import InvalidOptionError, ModelError
from tiers.packed_store import PackedStore

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("pack") / "model", max_shard_size="100KB")


def packed_tensors(path: Path) -> dict[str, torch.Tensor]:
    tier = open_source(path)
    assert isinstance(tier, PackedStore)
    found = tensors_of(tier)
    tier.close()
    return found


def modification_times(path: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in path.rglob("*")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_holds_what_is_stored(tmp_path: Path, dtype: torch.dtype, *, tied: bool) -> None:
    path = save_llama(tmp_path / "model", dtype=dtype, tied=tied)
    result = pack(path, tmp_path / "out")
    assert_same_tensors(packed_tensors(tmp_path / "out"), stored_tensors(path))
    store = PackedStore(tmp_path / "out")
    assert result.blocks == store.num_slots
    assert result.bytes == sum(group.nbytes for group in store.groups)
    assert result.seconds > 0
    store.close()


@pytest.mark.parametrize("target", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16])
def test_converts_as_torch_does(tmp_path: Path, source: torch.dtype, target: str) -> None:
    path = save_llama(tmp_path / "model", dtype=source)
    pack(path, tmp_path / "out", dtype=target)
    wanted = {name: tensor.to(getattr(torch, target)) for name, tensor in stored_tensors(path).items()}
    assert_same_tensors(packed_tensors(tmp_path / "out"), wanted)
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == getattr(torch, target)


def test_out_is_a_model_directory(tiny_llama: Path, tmp_path: Path) -> None:
    pack(tiny_llama, tmp_path / "out")
    wanted, found = AutoTokenizer.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert found("Some text.") == wanted("Some text.")
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tiny_llama / name).read_bytes()
    assert not list((tmp_path / "out").glob("*.safetensors*"))


def test_a_second_time_does_nothing(model: Path, tmp_path: Path) -> None:
    first = pack(model, tmp_path / "out")
    before = modification_times(tmp_path / "out")
    second = pack(model, tmp_path / "out")
    assert (second.bytes, second.blocks) == (first.bytes, first.blocks)
    assert modification_times(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_type_or_changed_files_are_refused(model: Path, tmp_path: Path) -> None:
    """They would be wrong answers from old weights, or work lost by overwriting."""
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    pack(copy, tmp_path / "out")
    with pytest.raises(ModelError, match="another type; remove it"):
        pack(copy, tmp_path / "out", dtype="float16")
    os.utime(min(copy.glob("*.safetensors")), ns=(0, 0))
    with pytest.raises(ModelError, match="from other files"):
        pack(copy, tmp_path / "out")


def test_what_is_no_packed_store_is_left_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ModelError, match="is no packed store; remove it"):
        pack(model, tmp_path)
    with pytest.raises(ModelError, match="is no packed store; remove it"):
        pack(model, tmp_path / "letters.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_an_empty_directory_is_welcome(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "out").mkdir(parents=True)
    pack(model, tmp_path / "a" / "out")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def test_out_below_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be written"):
        pack(model, tmp_path / "file" / "out")


def test_a_packed_store_is_no_checkpoint(model: Path, tmp_path: Path) -> None:
    pack(model, tmp_path / "out")
    with pytest.raises(ModelError, match="is a packed store already"):
        pack(tmp_path / "out", tmp_path / "again")


def test_unknown_type(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="--dtype int8"):
        pack(model, tmp_path / "out", dtype="int8")


def test_progress_ends_at_the_whole(model: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pack(model, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]


def test_an_interrupt_leaves_nothing(model: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(model, tmp_path / "out", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


KILLED_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from offload.pack import pack

def kill(done, total):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

pack(Path(sys.argv[1]), Path(sys.argv[2]), progress=kill)
"""


@pytest.mark.parametrize("change", [None, lambda model: os.utime(min(model.glob("*.safetensors")), ns=(0, 0))])
def test_after_a_kill(model: Path, tmp_path: Path, change: Callable[[Path], None] | None) -> None:
    """The next run continues, or starts afresh where the source is no longer the same."""
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    out = tmp_path / "out"
    assert run_python(KILLED_HALF_WAY, str(copy), str(out)).returncode == -9
    assert not out.exists()
    assert out.with_name("out.partial").exists()
    if change:
        change(copy)
    seen: list[tuple[int, int]] = []
    pack(copy, out, progress=lambda done, total: seen.append((done, total)))
    assert (seen[0][0] > seen[0][1] // 4) == (change is None)
    assert_same_tensors(packed_tensors(out), stored_tensors(model))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "out"]


PEAK = """
import sys
from pathlib import Path
from offload.pack import pack
from offload.peak_memory import peak_rss_nbytes
before = peak_rss_nbytes()
pack(Path(sys.argv[1]), Path(sys.argv[2]), dtype=sys.argv[3] or None)
heavy = {"torch", "transformers", "gguf", "zarr", "scipy", "safetensors"} & set(sys.modules)
print(peak_rss_nbytes() - before, *heavy)
"""


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_memory_stays_small(tmp_path: Path, dtype: str) -> None:
    """Measured in a process of its own on a model with a tensor of 128 MiB; nothing heavy is even imported."""
    header: dict[str, object] = {}
    position = 0
    for name, rows in {"model.embed_tokens.weight": 32768, "model.layers.0.mlp": 16384, "model.norm.weight": 1}.items():
        header[name] = {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [position, position + rows * 4096]}
        position += rows * 4096
    text = json.dumps(header).encode().ljust(1024)
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    with (path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + position)
    ended = run_python(PEAK, str(path), str(tmp_path / "out"), dtype)
    peak_nbytes, *heavy = ended.stdout.split()
    assert not heavy
    assert int(peak_nbytes) < 64 * 2**20, ended.stderr
