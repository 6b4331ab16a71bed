"""Writes a mixture of experts as llama.cpp reads it, so that it can be measured beside us on the same weights."""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

from offload.checkpoint.base import Checkpoint, TensorInfo
from offload.checkpoint.convert import convert
from offload.checkpoint.source import open_checkpoint
from tiers.errors import ModelError

_EXPERT: Final = re.compile(r"\.experts\.(\d+)\.")
_TYPES: Final = {
    "BF16": gguf.GGMLQuantizationType.BF16,
    "F16": gguf.GGMLQuantizationType.F16,
    "F32": gguf.GGMLQuantizationType.F32,
}


def write_gguf(model: Path, directory: Path) -> Path:
    """The GGUF file of a Qwen3-MoE checkpoint in ``directory``; written unless it is there. It has no vocabulary.

    Names are those of llama.cpp's tables in the ``gguf`` package; experts are stacked, vectors and routers become
    float32, everything else keeps its type. Takes the memory of the experts of a layer. Raises ModelError for another
    kind of model.
    """
    with closing(open_checkpoint(model)) as checkpoint:
        out = directory / f"{model.name}-{checkpoint.fingerprint[:12]}.gguf"
        if out.exists():
            return out
        config = checkpoint.config
        is_plain = config.get("norm_topk_prob", True) and not config.get("mlp_only_layers")
        if config.get("model_type") != "qwen3_moe" or config.get("decoder_sparse_step", 1) != 1 or not is_plain:
            raise ModelError(
                f"{model}: only plain Qwen3-MoE models can be written for llama.cpp, such as the synthetic one"
            )
        partial = out.with_name(out.name + ".partial")
        try:
            _write(checkpoint, partial)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    return out


def _write(checkpoint: Checkpoint, path: Path) -> None:
    config = checkpoint.config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3MOE])
    _describe(writer, config)
    sources = _sources(checkpoint.tensors, config["num_hidden_layers"])
    targets = {name: _target(members) for name, members in sources.items()}
    for name, info in targets.items():
        writer.add_tensor_info(name, info.shape, np.dtype(np.float32), info.nbytes, raw_dtype=_TYPES[info.dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, members in sources.items():
        writer.write_tensor_data(np.concatenate(list(_read(checkpoint, members, targets[name].dtype))))
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_expert_count(config.get("num_experts") or config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def _sources(tensors: Mapping[str, TensorInfo], num_layers: int) -> dict[str, list[TensorInfo]]:
    """The tensors of the checkpoint that make up each of the file, experts by their number."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, num_layers)
    found: dict[str, list[tuple[int, TensorInfo]]] = {}
    for name, info in tensors.items():
        match = _EXPERT.search(name)
        target = names.get_name(_EXPERT.sub(".experts.", name), try_suffixes=(".weight",))
        if target is None:
            raise ModelError(f"{name}: llama.cpp has no place for it; is config.json its own?")
        found.setdefault(target, []).append((int(match[1]) if match else 0, info))
    return {
        target: [info for _, info in sorted(members, key=lambda member: member[0])] for target, members in found.items()
    }


def _target(members: list[TensorInfo]) -> TensorInfo:
    """How the tensor made of ``members`` is stored; its name is not needed."""
    first = members[0]
    dtype = "F32" if len(first.shape) == 1 or first.name.endswith("mlp.gate.weight") else first.dtype
    is_stack = _EXPERT.search(first.name) is not None
    return TensorInfo("", dtype, (len(members), *first.shape) if is_stack else first.shape)


def _read(checkpoint: Checkpoint, members: list[TensorInfo], dtype: str) -> Iterator[NDArray[np.uint8]]:
    for info in members:
        for piece in checkpoint.read(info.name, 0, info.nbytes):
            yield convert(piece, info.dtype, dtype).copy()
