"""Names and shapes only: no files."""

from pathlib import Path
from typing import Any

import pytest

from offload.checkpoint.base import TensorInfo
from offload.checkpoint.groups import Grouping, group_tensors, packed_groups
from tiers.errors import ModelError
from tiers.tier import ALIGNMENT
from tiers.weight_tier import DTYPE_NBYTES

PATH = Path("model")


def tensors_named(*names: str) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, "F16", (40, 16) if "norm" not in name else (16,)) for name in names}


def grouping_of(config: dict[str, Any], *names: str) -> Grouping:
    return group_tensors(config, tensors_named(*names), PATH)


@pytest.mark.parametrize(
    ("layer", "embedding", "head"),
    [
        ("model.layers.{}.mlp.weight", "model.embed_tokens.weight", "lm_head.weight"),
        ("transformer.h.{}.mlp.weight", "transformer.wte.weight", "lm_head.weight"),
        ("h.{}.mlp.weight", "wte.weight", "lm_head.weight"),
        ("gpt_neox.layers.{}.mlp.weight", "gpt_neox.embed_in.weight", "embed_out.weight"),
        ("transformer.blocks.{}.ffn.weight", "transformer.wte.weight", "lm_head.weight"),
        ("model.decoder.layers.{}.fc1.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
        ("model.layers.{}.mlp.shared_experts.w1.weight", "model.embed_tokens.weight", "lm_head.weight"),
        ("model.language_model.layers.{}.mlp.weight", "model.language_model.embed_tokens.weight", "lm_head.weight"),
    ],
)
def test_families(layer: str, embedding: str, head: str) -> None:
    names = [layer.format(i) for i in range(12)]
    found = grouping_of({"num_hidden_layers": 12}, embedding, *names, "model.norm.weight", head)
    assert found == Grouping(tuple((name,) for name in names), head, embedding, ("model.norm.weight",))


@pytest.mark.parametrize(
    ("names", "is_stacked"),
    [
        (("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.down_proj.weight"), False),
        (("block_sparse_moe.experts.{}.w1.weight", "block_sparse_moe.experts.{}.w2.weight"), False),
        (("mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj_bias"), True),
        (("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"), True),
    ],
)
def test_routed_experts(names: tuple[str, ...], is_stacked: bool) -> None:
    """Each is a group of its own; the router and shared experts belong to the layer."""
    dense = ("mlp.gate.weight", "mlp.shared_experts.up_proj.weight", "mlp.shared_expert_gate.weight")
    layers = [f"model.layers.{i}.{name}" for i in range(2) for name in dense]
    if is_stacked:
        routed = [f"model.layers.1.{name}" for name in names]
        shapes = dict(zip(routed, ((3, 8, 4), (3, 8)), strict=True))
    else:
        routed = [f"model.layers.1.{name.format(expert)}" for expert in range(3) for name in names]
        shapes = {}
    everything = ["model.embed_tokens.weight", *layers, *routed]
    tensors = {name: TensorInfo(name, "F32", shapes.get(name, (8, 4))) for name in everything}
    found = group_tensors({"num_hidden_layers": 2}, tensors, Path("MODEL"))
    assert found.layers == (tuple(layers[:3]), tuple(layers[3:]))
    assert [(key.layer, key.expert) for key in found.experts] == [(1, 0), (1, 1), (1, 2)]
    assert found.stacked == (frozenset(routed) if is_stacked else frozenset())
    packed = [group for group in packed_groups(found, tensors) if group.kind == "expert"]
    assert [group.first_row for group in packed] == ([0, 1, 2] if is_stacked else [0, 0, 0])
    expected = [(1, *shapes[name][1:]) for name in routed] if is_stacked else [(8, 4), (8, 4)]
    assert [spec.shape for spec in packed[2].tensors] == expected


LAYERS = ("model.layers.0.a", "model.layers.1.a")


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": True}, {"text_config": {"tie_word_embeddings": True}}])
@pytest.mark.parametrize("stored", ["model.embed_tokens.weight", "lm_head.weight"])
def test_tied(config: dict[str, Any], stored: str) -> None:
    """The one matrix that is stored serves as head, under its own name."""
    found = grouping_of(config, stored, *LAYERS)
    assert (found.head, found.embedding, found.rest) == (stored, None, ())


def test_two_matrices_are_never_tied() -> None:
    """A fine-tuned head beside a configuration that still says tied: what is stored is right."""
    found = grouping_of({"tie_word_embeddings": True}, "model.embed_tokens.weight", "lm_head.weight", *LAYERS)
    assert (found.head, found.embedding) == ("lm_head.weight", "model.embed_tokens.weight")


def test_missing_head() -> None:
    with pytest.raises(ModelError, match=r"no output projection .* does not tie"):
        grouping_of({"tie_word_embeddings": False}, "model.embed_tokens.weight", *LAYERS)


def test_no_embedding() -> None:
    with pytest.raises(ModelError, match="no input embedding"):
        grouping_of({}, *LAYERS)


def test_no_layers() -> None:
    with pytest.raises(ModelError, match="no decoder layers"):
        grouping_of({}, "model.embed_tokens.weight")


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer"])
def test_missing_layer(key: str) -> None:
    with pytest.raises(ModelError, match=r"decoder layer 2 \(1 of 3"):
        grouping_of({key: 3}, "model.embed_tokens.weight", *LAYERS)


def test_extra_layers_are_left_out() -> None:
    found = grouping_of({"num_hidden_layers": 1}, "model.embed_tokens.weight", *LAYERS)
    assert found.layers == (("model.layers.0.a",),)
    assert found.rest == ()


def test_smaller_stacks_belong_to_the_rest() -> None:
    vision = "vision_tower.encoder.layers.0.a"
    found = grouping_of({}, "model.embed_tokens.weight", vision, *LAYERS)
    assert found.layers == (("model.layers.0.a",), ("model.layers.1.a",))
    assert found.rest == (vision,)


def test_layout_of_a_packed_store() -> None:
    tensors = {
        "model.embed_tokens.weight": TensorInfo("model.embed_tokens.weight", "BF16", (1000, 24)),
        "model.layers.0.a": TensorInfo("model.layers.0.a", "F32", (3, 5)),
        "model.layers.0.b": TensorInfo("model.layers.0.b", "BF16", (7, 900)),
        "model.layers.0.c": TensorInfo("model.layers.0.c", "I64", ()),
        "model.norm.weight": TensorInfo("model.norm.weight", "F16", (24,)),
    }
    groups = packed_groups(group_tensors({}, tensors, PATH), tensors)
    assert [g.key.name for g in groups] == ["layers.0", "head.0", "head.1", "head.2", "rest"][: len(groups)]
    layer, *slices, rest = groups
    assert [spec.offset for spec in layer.tensors] == [0, 256, 13056]
    assert layer.nbytes == 4 * ALIGNMENT
    per_slice = layer.nbytes // (24 * DTYPE_NBYTES["BF16"])
    assert [(g.first_row, g.tensors[0].shape) for g in slices] == [
        (first, (min(per_slice, 1000 - first), 24)) for first in range(0, 1000, per_slice)
    ]
    assert (rest.kind, rest.nbytes) == ("rest", ALIGNMENT)


def test_a_row_larger_than_a_layer() -> None:
    tensors = {
        "wte.weight": TensorInfo("wte.weight", "F32", (3, 5000)),
        "h.0.a": TensorInfo("h.0.a", "F32", (3,)),
    }
    groups = packed_groups(group_tensors({}, tensors, PATH), tensors)
    assert [(g.key.name, g.nbytes) for g in groups[1:]] == [(f"head.{j}", 5 * ALIGNMENT) for j in range(3)]
