"""Against transformers' own loading of the same GGUF files."""

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from offload.checkpoint.gguf import GGUFFile, fingerprint_gguf
from offload.checkpoint.source import open_source
from offload.pack import pack
from tests.offload.checkpoints import assert_same_tensors, tensors_of
from tiers.errors import ModelError

HIDDEN, HEADS, KV_HEADS, INTERMEDIATE, VOCABULARY, LAYERS = 64, 4, 2, 96, 300, 2
BLOCK = {
    "attn_norm": (HIDDEN,),
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
    "attn_v": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_norm": (HIDDEN,),
    "ffn_gate": (INTERMEDIATE, HIDDEN),
    "ffn_up": (INTERMEDIATE, HIDDEN),
    "ffn_down": (HIDDEN, INTERMEDIATE),
}


def write_llama(path: Path, *, architecture: str = "llama", tied: bool = False, skip: str = "", parts: int = 1) -> Path:
    """A random model as llama.cpp would store it: matrices in 8-bit blocks, F16 or F32, vectors in F32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    shapes = {"token_embd.weight": (VOCABULARY, HIDDEN), "output_norm.weight": (HIDDEN,)}
    if not tied:
        shapes["output.weight"] = (VOCABULARY, HIDDEN)
    shapes |= {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in BLOCK.items()}
    generator = np.random.default_rng(5)
    types = [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32]
    for i, (name, shape) in enumerate(shapes.items()):
        if name == skip:
            continue
        values = generator.standard_normal(shape).astype(np.float32)
        kind = types[i % 3] if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load_reference(path: Path) -> dict[str, torch.Tensor]:
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    return dict(model.state_dict())


@pytest.mark.parametrize("tied", [False, True])
def test_packed_equals_transformers(tmp_path: Path, *, tied: bool) -> None:
    """Query and key rows are put back in order; the packed form is a model directory by itself."""
    file = write_llama(tmp_path / "tiny.gguf", tied=tied)
    reference = load_reference(file)
    result = pack(file, tmp_path / "packed")
    tier = open_source(tmp_path / "packed")
    found = tensors_of(tier)
    if tied:
        reference.pop("lm_head.weight")
    assert_same_tensors(found, reference)
    assert result.blocks == tier.num_slots
    tier.close()
    config: Any = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name).config
    packed_config: Any = type(config).from_pretrained(tmp_path / "packed")
    for key in ("num_hidden_layers", "num_key_value_heads", "tie_word_embeddings", "rope_parameters", "vocab_size"):
        assert getattr(packed_config, key) == getattr(config, key)


def test_rows_of_a_tensor(tmp_path: Path) -> None:
    checkpoint = GGUFFile(write_llama(tmp_path / "tiny.gguf"))
    name = "model.layers.1.self_attn.q_proj.weight"
    whole = np.concatenate(list(checkpoint.read(name, 0, checkpoint.tensors[name].nbytes)))
    part = np.concatenate(list(checkpoint.read(name, 256 * 3, 256 * 10)))
    assert np.array_equal(whole[256 * 3 : 256 * 10], part)
    assert checkpoint.fingerprint == fingerprint_gguf(tmp_path / "tiny.gguf")
    checkpoint.close()
    checkpoint.close()


@pytest.mark.parametrize("keep", [0, 3, 40, 500, 4096, -1])
def test_truncated(tmp_path: Path, keep: int) -> None:
    file = write_llama(tmp_path / "tiny.gguf")
    os.truncate(file, keep if keep >= 0 else file.stat().st_size - 1)
    with pytest.raises(ModelError, match=r"tiny\.gguf: .*download it again"):
        GGUFFile(file)


def test_lfs_pointer(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 4096\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        GGUFFile(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        pack(tmp_path / "none.gguf", tmp_path / "out")


def test_missing_tensor(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing in it for model\.layers\.1\.mlp\.up_proj\.weight"):
        GGUFFile(write_llama(tmp_path / "tiny.gguf", skip="blk.1.ffn_up.weight"))


def test_one_of_several_parts(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="one of 3 parts"):
        GGUFFile(write_llama(tmp_path / "tiny.gguf", parts=3))


def test_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'plamo' cannot be unpacked"):
        GGUFFile(write_llama(tmp_path / "tiny.gguf", architecture="plamo"))
