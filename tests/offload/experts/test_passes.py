"""What an observer is told of forward passes."""

from pathlib import Path

import torch

from offload.experts.passes import announce_passes
from tests.offload.zoo import generate, loaded, make_inputs


def test_tokens_and_their_positions(tiny_llama: Path) -> None:
    """A prompt in pieces, then a token at a time, of two sequences; nothing more once nobody listens."""
    told: list[tuple[list[list[int]], int]] = []
    inputs = make_inputs(10, (0, 0))
    with loaded(tiny_llama) as model:
        handle = announce_passes(model, lambda tokens, position: told.append((tokens.tolist(), position)))
        new = generate(model, inputs, 3, prefill_chunk_size=4)
        handle.remove()
        generate(model, inputs, 2)
    assert [position for _, position in told] == [0, 4, 8, 10, 11]
    assert torch.cat([torch.tensor(tokens) for tokens, _ in told[:3]], dim=1).equal(inputs["input_ids"])
    assert [tokens for tokens, _ in told[3:]] == [[[row[step]] for row in new] for step in range(2)]


def test_a_pass_without_a_cache_begins_anew(tiny_llama: Path) -> None:
    told: list[int] = []
    with loaded(tiny_llama) as model, torch.inference_mode():
        announce_passes(model, lambda _, position: told.append(position))
        ids = make_inputs(5)["input_ids"]
        model(ids, use_cache=False)
        model(input_ids=ids)
        model(inputs_embeds=model.get_input_embeddings()(ids), use_cache=False)
    assert told == [0, 0]
