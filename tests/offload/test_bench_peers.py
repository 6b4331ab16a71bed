"""What peers are given to run, and what is said of them."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from offload.bench import expert_peers
from offload.bench.expert_peers import beside, peer_specs
from offload.bench.expert_spec import Spec, Timing
from offload.bench.gguf_moe import write_gguf
from offload.checkpoint.gguf import GGUFFile
from tests.offload.zoo import plain_model, save_model
from tiers.errors import ModelError, WorldError

QWEN: dict[str, Any] = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 768, "head_dim": 16}
"""The size of experts is what transformers takes by default: it does not read it out of the file."""


def spec_for(model: Path) -> Spec:
    return Spec("ours", str(model), "tokens", 8, "runs")


@pytest.mark.parametrize("is_tied", [True, False])
def test_what_llama_cpp_reads_is_the_model(is_tied: bool, tmp_path: Path) -> None:
    """As transformers reads it back."""
    path = save_model(tmp_path / "model", "qwen3_moe", norm_topk_prob=True, tie_word_embeddings=is_tied, **QWEN)
    out = write_gguf(path, tmp_path)
    assert out.parent == tmp_path
    expected = plain_model(path).state_dict()
    with closing(GGUFFile(out)) as found:
        assert found.config["num_experts_per_tok"] == 2
        assert found.tensors.keys() == expected.keys() - ({"lm_head.weight"} if is_tied else set())
        for name, info in found.tensors.items():
            whole = b"".join(piece.tobytes() for piece in found.read(name, 0, info.nbytes))
            assert whole == expected[name].numpy().tobytes(), name
    written = out.stat().st_mtime_ns
    assert write_gguf(path, tmp_path).stat().st_mtime_ns == written, "not a second time"
    assert {one.name for one in tmp_path.iterdir()} == {"model", out.name}


def test_what_llama_cpp_cannot_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_model(tmp_path / "model", "mixtral", num_local_experts=4, num_experts_per_tok=2)
    monkeypatch.setattr(expert_peers, "find_spec", lambda _: object())
    with pytest.raises(ModelError, match="only plain Qwen3-MoE models can be written for llama"):
        peer_specs(spec_for(path), tmp_path, 0)["llama.cpp"]()
    assert {one.name for one in tmp_path.iterdir()} == {"model"}


def test_a_peer_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_peers, "find_spec", lambda _: None)
    with pytest.raises(WorldError, match="llama-cpp-python is not installed; 'pip install llama-cpp-python'"):
        peer_specs(spec_for(tmp_path), tmp_path, 0)["llama.cpp"]()
    accelerate = peer_specs(spec_for(tmp_path), tmp_path, 7)["accelerate"]()
    assert (accelerate.engine, accelerate.device_memory, accelerate.model) == ("accelerate", 7, str(tmp_path))


def test_the_better_peer_is_the_one_to_beat() -> None:
    ours, slow, fast = (Timing(1.0, step_s, 0) for step_s in (0.1, 1.0, 0.25))
    row = beside({"slow": slow, "fast": fast}, ours)
    assert (row["peer"], row["peer_name"], row["ratio_to_peer"]) == (4.0, "fast", 2.5)
    assert row["peers"] == {"slow": 1.0, "fast": 4.0}
    assert beside({}, ours) == {}


def test_the_peer_s_process_has_its_memory_for_itself() -> None:
    program = "import sys, offload.bench.llama_cpp_run; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"
