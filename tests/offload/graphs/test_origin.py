"""A graph is not replayed any more once the model that it was captured from is another."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from offload.graphs.origin import Origin
from offload.offloaded_model import OffloadedModel
from tests.offload.graphs.kit import graphed
from tests.offload.zoo import make_inputs, save_model


class Added(nn.Module):
    """A layer with something beside it, as adapters are put into a model."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.layer(hidden)
        return found * 2


def _replace_head(model: OffloadedModel) -> None:
    model.lm_head = Added(model.lm_head)


def _inject(model: OffloadedModel) -> None:
    layer = model.model.layers[1]
    layer.mlp = Added(layer.mlp)


def _move(model: OffloadedModel) -> None:
    weight = model.model.norm.weight
    weight.data = weight.data * 2


def _exchange(model: OffloadedModel) -> None:
    model.model.norm.weight = nn.Parameter(model.model.norm.weight * 2, requires_grad=False)


def _patch(model: OffloadedModel) -> None:
    norm = model.model.norm
    as_it_is = norm.forward
    norm.forward = lambda hidden: as_it_is(hidden) * 2


CHANGES: list[Callable[[OffloadedModel], None]] = [_replace_head, _inject, _move, _exchange, _patch]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_two_steps(tmp_path: Path, change: Callable[[OffloadedModel], None]) -> None:
    path = save_model(tmp_path, "llama", num_hidden_layers=2)
    with graphed(path, "cpu", prompt_tokens=40, new_tokens=40) as (model, graphs), model.new_cache() as cache:

        def step() -> Tensor:
            with torch.inference_mode():
                ids, place = torch.tensor([[3]]), torch.tensor([[20]])
                found: Tensor = model(input_ids=ids, position_ids=place, past_key_values=cache).logits
            cache.crop(20)
            return found

        with torch.inference_mode():
            model(**make_inputs(20), past_key_values=cache)
        _, before = step(), step()
        assert graphs.num_replays == 1
        assert Origin.of(model).is_still(model)
        change(model)
        model.runtime.graphs = None
        expected = step()
        model.runtime.graphs = graphs
        assert not torch.allclose(expected, before, atol=1e-3)
        found = [step() for _ in range(3)]
        assert all(torch.allclose(one, expected, atol=1e-5) for one in found)
        assert (graphs.num_replays, graphs.notes) == (3, [])
