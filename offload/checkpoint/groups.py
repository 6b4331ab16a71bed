"""From tensor names to weight groups. Pure: works on what config.json and the headers say, no I/O."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.checkpoint.base import TensorInfo
from tiers.block import WeightGroupKey
from tiers.errors import ModelError
from tiers.tier import align_up
from tiers.weight_tier import GroupKind, TensorSpec, WeightGroup

TENSOR_ALIGNMENT = 256
"""Bytes. What CUDA kernels like best, and more than any CPU asks for."""

_LAYER = re.compile(r"^(?P<stack>|.*?\.)(?:layers|layer|h|blocks|block)\.(?P<index>\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|embeddings?)\.weight$")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output|output_layer)\.weight$")


@dataclass(frozen=True, slots=True)
class Grouping:
    """Tensor names by role. ``embedding`` is None where it is tied, that is, where ``head`` serves for both."""

    layers: tuple[tuple[str, ...], ...]
    head: str
    embedding: str | None
    rest: tuple[str, ...]


def group_tensors(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], path: Path) -> Grouping:
    """Sort the tensors of a causal language model.

    Layers beyond those that config.json counts (extra prediction layers) are left out, as transformers leaves them out.
    ModelError, with ``path`` in it, for a missing layer and for a model in which no layers or no embedding are found.
    """
    stacks = _find_stacks(tensors)
    if not stacks:
        raise ModelError(f"{path}: no decoder layers among its tensors; only causal language models can be run")
    stack = max(stacks, key=lambda name: sum(tensors[t].nbytes for layer in stacks[name].values() for t in layer))
    layers = stacks[stack]
    count = _layer_count(config) or max(layers) + 1
    missing = [i for i in range(count) if i not in layers]
    if missing:
        what = f"no tensors of decoder layer {missing[0]} ({len(missing)} of {count} layers missing)"
        raise ModelError(f"{path}: {what}; download the model again")
    in_layers = {name for layer in layers.values() for name in layer}
    others = [name for name in tensors if name not in in_layers]
    head, embedding = _find_ends(config, tensors, others, path)
    rest = tuple(name for name in others if name not in (head, embedding))
    return Grouping(tuple(tuple(layers[i]) for i in range(count)), head, embedding, rest)


def packed_groups(grouping: Grouping, tensors: Mapping[str, TensorInfo]) -> list[WeightGroup]:
    """Groups laid out for a packed store: every tensor at a multiple of TENSOR_ALIGNMENT."""
    groups = [_laid_out(f"layers.{i}", names, tensors) for i, names in enumerate(grouping.layers)]
    largest = max(group.nbytes for group in groups)
    groups += _sliced("head", tensors[grouping.head], largest)
    if grouping.embedding is not None:
        groups += _sliced("embedding", tensors[grouping.embedding], largest)
    if grouping.rest:
        groups.append(_laid_out("rest", grouping.rest, tensors))
    return groups


def _laid_out(key: str, names: tuple[str, ...], tensors: Mapping[str, TensorInfo]) -> WeightGroup:
    specs = []
    position = 0
    for name in names:
        info = tensors[name]
        position = align_up(position, TENSOR_ALIGNMENT)
        specs.append(TensorSpec(name, info.dtype, info.shape, position))
        position += info.nbytes
    kind: GroupKind = "rest" if key == "rest" else "layer"
    return WeightGroup(WeightGroupKey(key), kind, tuple(specs), max(align_up(1), align_up(position)))


def _sliced(kind: GroupKind, info: TensorInfo, max_nbytes: int) -> Iterator[WeightGroup]:
    rows = max(1, max_nbytes // info.row_nbytes)
    for j, first in enumerate(range(0, info.shape[0], rows)):
        count = min(rows, info.shape[0] - first)
        spec = TensorSpec(info.name, info.dtype, (count, *info.shape[1:]), 0)
        key = WeightGroupKey(f"{kind}.{j}")
        yield WeightGroup(key, kind, (spec,), align_up(spec.nbytes), first)


def _find_stacks(tensors: Mapping[str, TensorInfo]) -> dict[str, dict[int, list[str]]]:
    """Tensor names by stack of layers and index; encoders and vision towers are stacks of their own."""
    stacks: dict[str, dict[int, list[str]]] = {}
    for name in tensors:
        if match := _LAYER.match(name):
            stacks.setdefault(match["stack"], {}).setdefault(int(match["index"]), []).append(name)
    return stacks


def _layer_count(config: Mapping[str, Any]) -> int | None:
    for source in _sections(config):
        for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            if isinstance(source.get(key), int):
                return int(source[key])
    return None


def _find_ends(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], names: list[str], path: Path
) -> tuple[str, str | None]:
    """Head and embedding. What is stored decides; ``tie_word_embeddings`` only whether a missing one is an error.

    This is the rule of transformers, which does not tie two tensors that are both in the checkpoint and differ.
    """
    matrices = [name for name in names if len(tensors[name].shape) == 2]
    head = next((name for name in matrices if _HEAD.search(name)), None)
    embedding = next((name for name in matrices if _EMBEDDING.search(name)), None)
    if head is not None and embedding is not None:
        return head, embedding
    stored = head or embedding
    if stored is None:
        raise ModelError(f"{path}: no input embedding among its tensors; this architecture is not supported")
    if not _is_tied(config):
        missing = "output projection" if head is None else "input embedding"
        raise ModelError(f"{path}: no {missing} among its tensors, and config.json does not tie it; download it again")
    return stored, None


def _is_tied(config: Mapping[str, Any]) -> bool:
    """Older configurations leave the key out where it is true."""
    said = [source["tie_word_embeddings"] for source in _sections(config) if "tie_word_embeddings" in source]
    return any(said) or not said


def _sections(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The configuration of the language model first: multimodal ones nest it."""
    text = config.get("text_config")
    return [text, config] if isinstance(text, dict) else [config]
