import pytest

from offload.moefication.shape import MoeShape, choose_shape
from tiers.errors import InvalidOptionError


def test_a_third_is_shared() -> None:
    shape = choose_shape(1536, experts=32, top_k=8)
    assert shape == MoeShape(neurons=1536, shared=512, experts=32, top_k=8)
    assert (shape.expert_neurons, shape.active_share) == (32, 0.5)


@pytest.mark.parametrize("neurons", [128, 1000, 8960, 11008, 14336])
@pytest.mark.parametrize("experts", [1, 4, 7, 16])
def test_any_size_divides(neurons: int, experts: int) -> None:
    shape = choose_shape(neurons, experts=experts, top_k=1)
    assert shape.shared + experts * shape.expert_neurons == neurons
    assert shape.expert_neurons % 8 == 0
    assert shape.shared >= 0


def test_no_shared_neurons() -> None:
    assert choose_shape(128, experts=4, top_k=2, shared=0).expert_neurons == 32


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"top_k": 5}, "--top-k 5: there are 4 experts"),
        ({"experts": 17}, "--experts 17: a layer has 128 neurons; at most 16 experts of 8"),
        ({"shared": 30}, "--shared-neurons 30: the other 98 of 128 neurons .* with 32 they would"),
        ({"shared": 128}, "--shared-neurons 128: .* with 96 they would"),
        ({"shared": 200}, "--shared-neurons 200: .* with 96 they would"),
    ],
)
def test_numbers_that_do_not_go_together(wrong: dict[str, int], complaint: str) -> None:
    with pytest.raises(InvalidOptionError, match=complaint):
        choose_shape(128, **{"experts": 4, "top_k": 2, **wrong})
