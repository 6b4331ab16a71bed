import pytest
import torch
from torch import Tensor, nn

from offload.weights.binding import Binding, ParameterMap, is_obsolete, module_of, tensor_view
from tiers.block import WeightGroupKey
from tiers.errors import ModelError
from tiers.tier import ALIGNMENT
from tiers.weight_tier import TensorSpec, WeightGroup


class Layer(nn.Module):
    scale: Tensor
    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("scale", torch.zeros(2))
        self.register_buffer("frequencies", torch.ones(2), persistent=False)


class Base(nn.Module):
    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [Layer(), Layer()]
        self.each = tuple(layers)
        self.model = Base(layers)


def group(*specs: tuple[str, tuple[int, ...]], key: str = "layers.0") -> WeightGroup:
    tensors = tuple(TensorSpec(name, "F32", shape, 64 * i) for i, (name, shape) in enumerate(specs))
    return WeightGroup(WeightGroupKey(key), "layer", tensors, ALIGNMENT)


def layer_group(index: int, prefix: str = "model.") -> WeightGroup:
    name = f"{prefix}layers.{index}."
    return group((name + "linear.weight", (2, 3)), (name + "linear.bias", (2,)), (name + "scale", (2,)))


def make_map(model: nn.Module, *ignored: str) -> ParameterMap:
    return ParameterMap(model, "model", "PATH", ignored)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "I64", "U8"])
def test_tensors_are_views_of_a_slot(dtype: str) -> None:
    buffer = memoryview(bytearray(100))
    tensor = tensor_view(buffer, TensorSpec("x", dtype, (2, 3), 8))
    assert tensor.shape == (2, 3)
    tensor.fill_(1)
    assert any(buffer[8 : 8 + tensor.element_size()])
    assert not any(buffer[:8])
    assert not any(buffer[8 + tensor.nbytes :])


def test_every_shape_of_an_empty_and_a_scalar_tensor() -> None:
    buffer = memoryview(bytearray(100))
    assert tensor_view(buffer, TensorSpec("x", "F32", (), 4)).shape == ()


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_binds_parameters_and_stored_buffers(prefix: str) -> None:
    """By name, with or without the prefix of the base model; what is not stored is left alone."""
    model = Model()
    parameters = make_map(model)
    bindings = [parameters.bind(layer_group(i, prefix)) for i in range(2)]
    parameters.check_complete()
    buffer = memoryview(bytearray(ALIGNMENT))
    bindings[1].attach(bindings[1].views(buffer))
    layer = model.each[1]
    layer.linear.weight.fill_(2.0)
    layer.scale.fill_(3.0)
    assert torch.frombuffer(buffer, dtype=torch.float32)[:6].tolist() == [2.0] * 6
    assert torch.frombuffer(buffer, dtype=torch.float32, offset=128)[:2].tolist() == [3.0] * 2
    assert layer.frequencies.tolist() == [1.0, 1.0]
    bindings[1].detach()
    assert layer.linear.weight.numel() == layer.scale.numel() == 0
    assert not layer.linear.weight.requires_grad


def test_an_unbound_parameter_cannot_be_used_by_mistake() -> None:
    model = Model()
    make_map(model)
    with pytest.raises(RuntimeError):
        model.each[0].linear(torch.zeros(1, 3))


def test_a_tensor_without_a_place() -> None:
    with pytest.raises(ModelError, match=r"PATH: the model has no place for the tensor model.layers.0.other; is"):
        make_map(Model()).bind(group(("model.layers.0.other", (2,))))


@pytest.mark.parametrize("name", ["model.layers.0.attn.masked_bias", "model.layers.0.attn.rotary_emb.inv_freq"])
def test_tensors_that_transformers_skips_too(name: str) -> None:
    binding = make_map(Model(), r"attn\.masked_bias$").bind(group((name, (2,))))
    binding.attach(binding.views(memoryview(bytearray(ALIGNMENT))))


def test_a_tensor_of_another_shape() -> None:
    """Of as many numbers, even: it would go unnoticed otherwise."""
    with pytest.raises(ModelError, match=r"linear.weight has the shape \(3, 2\), config.json says \(2, 3\)"):
        make_map(Model()).bind(group(("model.layers.0.linear.weight", (3, 2))))


def test_missing_weights() -> None:
    parameters = make_map(Model())
    parameters.bind(layer_group(0))
    with pytest.raises(ModelError, match=r"3 weights are missing, such as model.layers.1.linear.weight, .*; is"):
        parameters.check_complete()


def test_the_module_of_a_group() -> None:
    model = Model()
    assert module_of(model, layer_group(1), "model") is model.each[1]
    assert module_of(model, layer_group(1, prefix=""), "model") is model.each[1]
    assert module_of(model, group(("model.layers.1.linear.weight", (2, 3))), "model") is model.each[1].linear


def test_no_module_of_a_group() -> None:
    with pytest.raises(ModelError, match=r"the model has no module layers\.7\.linear"):
        module_of(Model(), group(("layers.7.linear.weight", (2, 3))), "model")


def test_obsolete_names() -> None:
    assert is_obsolete("model.layers.0.self_attn.rotary_emb.inv_freq")
    assert is_obsolete("embeddings.position_ids")
    assert not is_obsolete("model.layers.0.self_attn.q_proj.weight")


def test_detached_parameters_keep_their_type() -> None:
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16), requires_grad=False)
    Binding(group(), (parameter,)).detach()
    assert (parameter.numel(), parameter.dtype) == (0, torch.bfloat16)
