"""What experts say to one token, however they arrive; and the threads that compute it."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from offload.experts.codecs.stored import StoredMatrix
from offload.experts.compute import for_many_tokens, for_one_token, suitable_threads
from offload.experts.layout import ExpertWeights
from tiers.block import ExpertKey
from tiers.weight_tier import STORED

HIDDEN, INNER, EXPERTS = 24, 40, 6
Member = tuple[ExpertKey, ExpertWeights]


@pytest.fixture(scope="module")
def module() -> MixtralExperts:
    config = MixtralConfig(hidden_size=HIDDEN, intermediate_size=INNER, num_local_experts=EXPERTS)
    return MixtralExperts(config)


@pytest.fixture(scope="module")
def experts() -> list[Member]:
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> StoredMatrix:
        return StoredMatrix(torch.randn(rows, columns, generator=generator) / 8, is_transposed=False)

    return [
        (ExpertKey(0, i, STORED), ExpertWeights((matrix(2 * INNER, HIDDEN),), None, matrix(HIDDEN, INNER), None))
        for i in range(EXPERTS)
    ]


def outputs_of(module: MixtralExperts, token: Tensor, groups: Sequence[Sequence[Member]]) -> Tensor:
    return for_one_token(module, token, {1: [0], 2: [3], 4: [1], 5: [2]}, groups, 4)


def test_the_result_is_the_same_to_the_bit_whatever_was_there(module: MixtralExperts, experts: list[Member]) -> None:
    token = torch.randn(1, HIDDEN)
    one, two, four, five = (experts[i] for i in (1, 2, 4, 5))
    together = outputs_of(module, token, [[one, two, four, five]])
    for groups in ([[four], [one], [five], [two]], [[one, five], [two, four]], [[five, two, one], [four]]):
        assert torch.equal(outputs_of(module, token, groups), together)
    each = torch.cat([weights.apply(module, token) for _, weights in (one, four, five, two)])
    torch.testing.assert_close(together, each)


def test_one_token_and_many_agree(module: MixtralExperts, experts: list[Member]) -> None:
    tokens = torch.randn(3, HIDDEN)
    chosen = torch.tensor([[1, 4], [4, 2], [1, 2]])
    places = {expert: (chosen.flatten() == expert).nonzero().flatten() for expert in (1, 2, 4)}
    many = for_many_tokens(module, tokens, places, [[experts[i] for i in places]], 2)
    for row, pair in enumerate(chosen.tolist()):
        alone = {expert: [place] for place, expert in enumerate(pair)}
        one = for_one_token(module, tokens[row : row + 1], alone, [[experts[i] for i in pair]], 2)
        torch.testing.assert_close(one, many[2 * row : 2 * row + 2])


def test_masked_and_repeated_choices(module: MixtralExperts, experts: list[Member]) -> None:
    token = torch.randn(1, HIDDEN)
    outputs = for_one_token(module, token, {3: [0, 2]}, [[experts[3]]], 4)
    assert torch.equal(outputs[0], outputs[2])
    assert not outputs[[1, 3]].any()
    assert not for_one_token(module, token, {}, [], 2).any()


def test_small_experts_are_computed_by_one_thread() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suitable_threads(200_000, 1.0):
            assert torch.get_num_threads() == 1
        with suitable_threads(200_000, 500.0):
            assert torch.get_num_threads() == 2
        with suitable_threads(8_000_000, 1.0):
            assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="whatever"), suitable_threads(200_000, 1.0):
            raise ValueError("whatever")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
