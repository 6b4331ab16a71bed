"""From tensor names to weight groups. Pure: works on what config.json and the headers say, no I/O."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offload.checkpoint.base import TensorInfo
from tiers.block import ExpertKey, WeightGroupKey
from tiers.errors import ModelError
from tiers.tier import align_up
from tiers.weight_tier import STORED, GroupKind, TensorSpec, WeightGroup

TENSOR_ALIGNMENT = 256
"""Bytes. What CUDA kernels like best, and more than any CPU asks for."""

_LAYER = re.compile(r"^(?P<stack>|.*?\.)(?:layers|layer|h|blocks|block)\.(?P<index>\d+)\.")
_EXPERT = re.compile(r"\.experts\.(?P<index>\d+)\.")
_STACKED = re.compile(r"\.experts\.[^.]+(?:\.weight|\.bias)?$|\.block_sparse_moe\.(?:input|output)_linear\.weight$")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|embeddings?)\.weight$")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output|output_layer)\.weight$")


@dataclass(frozen=True, slots=True)
class Grouping:
    """Tensor names by role. ``embedding`` is None where it is tied, that is, where ``head`` serves for both.

    ``experts`` are the routed experts of the layers; of tensors in ``stacked`` each expert has one row.
    """

    layers: tuple[tuple[str, ...], ...]
    head: str
    embedding: str | None
    rest: tuple[str, ...]
    experts: Mapping[ExpertKey, tuple[str, ...]] = field(default_factory=dict)
    stacked: frozenset[str] = frozenset()


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
    experts, stacked = _find_experts([layers[i] for i in range(count)], tensors)
    routed = {name for names in experts.values() for name in names}
    dense = tuple(tuple(name for name in layers[i] if name not in routed) for i in range(count))
    return Grouping(dense, head, embedding, rest, experts, stacked)


def packed_groups(grouping: Grouping, tensors: Mapping[str, TensorInfo]) -> list[WeightGroup]:
    """Groups laid out for a packed store: every tensor at a multiple of TENSOR_ALIGNMENT."""
    groups = [_laid_out(f"layers.{i}", names, tensors) for i, names in enumerate(grouping.layers)]
    largest = max(group.nbytes for group in groups)
    groups += [_expert(key, names, grouping.stacked, tensors) for key, names in grouping.experts.items()]
    groups += _sliced("head", tensors[grouping.head], largest)
    if grouping.embedding is not None:
        groups += _sliced("embedding", tensors[grouping.embedding], largest)
    if grouping.rest:
        groups.append(_laid_out("rest", grouping.rest, tensors))
    return groups


def _laid_out(key: str, names: tuple[str, ...], tensors: Mapping[str, TensorInfo]) -> WeightGroup:
    specs, nbytes = lay_out([tensors[name] for name in names])
    return WeightGroup(WeightGroupKey(key), "rest" if key == "rest" else "layer", specs, nbytes)


def _expert(
    key: ExpertKey, names: tuple[str, ...], stacked: frozenset[str], tensors: Mapping[str, TensorInfo]
) -> WeightGroup:
    is_stacked = names[0] in stacked
    specs, nbytes = lay_out([row_of(tensors[name]) if is_stacked else tensors[name] for name in names])
    return WeightGroup(key, "expert", specs, nbytes, key.expert if is_stacked else 0)


def row_of(info: TensorInfo) -> TensorInfo:
    """One row of a tensor, still with the first dimension."""
    return TensorInfo(info.name, info.dtype, (1, *info.shape[1:]))


def lay_out(infos: Sequence[TensorInfo]) -> tuple[tuple[TensorSpec, ...], int]:
    """Tensors one after the other in a block, and the bytes that it takes."""
    specs = []
    position = 0
    for info in infos:
        position = align_up(position, TENSOR_ALIGNMENT)
        specs.append(TensorSpec(info.name, info.dtype, info.shape, position))
        position += info.nbytes
    return tuple(specs), max(align_up(1), align_up(position))


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


def _find_experts(
    layers: list[list[str]], tensors: Mapping[str, TensorInfo]
) -> tuple[dict[ExpertKey, tuple[str, ...]], frozenset[str]]:
    """Routed experts: tensors of one expert each, by their names, or tensors in which all of a layer are stacked.

    Shared experts are called otherwise and belong to the layer.
    """
    experts: dict[ExpertKey, list[str]] = {}
    stacked: set[str] = set()
    for layer, names in enumerate(layers):
        for name in names:
            shape = tensors[name].shape
            if match := _EXPERT.search(name):
                experts.setdefault(ExpertKey(layer, int(match["index"]), STORED), []).append(name)
            elif len(shape) >= 2 and _STACKED.search(name):
                stacked.add(name)
                for expert in range(shape[0]):
                    experts.setdefault(ExpertKey(layer, expert, STORED), []).append(name)
    return {key: tuple(experts[key]) for key in sorted(experts, key=_by_place)}, frozenset(stacked)


def _by_place(key: ExpertKey) -> tuple[int, int]:
    return key.layer, key.expert


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
