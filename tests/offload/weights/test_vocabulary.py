from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from offload.checkpoint.in_place import SafetensorsTier
from offload.pack import pack
from offload.weights.streamer import WeightStreamer
from offload.weights.vocabulary import TieredEmbedding, TieredHead, VocabularySlice, embedding_scale
from tests.offload.checkpoints import TORCH_DTYPES, save_llama, stored_tensors
from tiers.errors import CorruptBlockError, ModelError
from tiers.packed_store import PackedStore
from tiers.transfer import TransferEngine
from tiers.weight_tier import WeightTier

VOCABULARY = 1501
"""Several slices and a short last one, of a model with small layers."""


@dataclass(frozen=True)
class Ends:
    """A checkpoint open for streaming, and the matrices that its two ends have to act like."""

    source: WeightTier
    streamer: WeightStreamer
    head: Tensor
    embedding: Tensor

    def slices(self, kind: str, stays: Callable[[int], bool]) -> list[VocabularySlice]:
        groups = [group for group in self.source.groups if group.kind == kind]
        matrix = self.head if kind == "head" else self.embedding
        assert len(groups) > 2
        return [
            VocabularySlice(
                group,
                matrix[group.first_row : group.first_row + group.tensors[0].shape[0]] if stays(i) else None,
            )
            for i, group in enumerate(groups)
        ]


@contextmanager
def open_ends(path: Path, *, packed: bool = False, dtype: torch.dtype = torch.float32) -> Iterator[Ends]:
    model = save_llama(path / "model", vocab_size=VOCABULARY, hidden_size=64, dtype=dtype)
    tensors = stored_tensors(model)
    if packed:
        pack(model, path / "packed")
    engine = TransferEngine()
    with ExitStack() as stack:
        source: WeightTier = PackedStore(path / "packed") if packed else SafetensorsTier(model)
        stack.callback(source.close)
        stack.callback(engine.close)
        head = [group for group in source.groups if group.kind == "head"]
        streamer = WeightStreamer(engine, source, head, 2)
        yield Ends(source, streamer, tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])


STAYS: dict[str, Callable[[int], bool]] = {
    "all": lambda _: True,
    "none": lambda _: False,
    "some": lambda index: index % 2 == 0,
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stays", STAYS)
@pytest.mark.parametrize("dtype", TORCH_DTYPES.values())
def test_a_head_in_slices_is_a_linear_layer(tmp_path: Path, stays: str, packed: bool, dtype: torch.dtype) -> None:
    with open_ends(tmp_path, packed=packed, dtype=dtype) as ends:
        head = TieredHead(ends.slices("head", STAYS[stays]), ends.streamer)
        assert head.out_features == VOCABULARY
        for shape in [(64,), (1, 1, 64), (2, 7, 64)]:
            hidden = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
            for _ in range(2):
                close = 1e-5 if dtype == torch.float32 else 2e-2
                expected = functional.linear(hidden, ends.head)
                torch.testing.assert_close(head(hidden), expected, atol=close, rtol=close)


def test_a_head_with_a_bias(tmp_path: Path) -> None:
    with open_ends(tmp_path) as ends:
        head = TieredHead(ends.slices("head", STAYS["some"]), ends.streamer, has_bias=True)
        assert head.bias is not None
        assert head.bias.shape == (VOCABULARY,)
        bias = torch.randn(VOCABULARY)
        head.bias = nn.Parameter(bias, requires_grad=False)
        hidden = torch.randn(3, 64)
        torch.testing.assert_close(head(hidden), functional.linear(hidden, ends.head, bias))


def test_a_damaged_slice_of_the_head(tmp_path: Path) -> None:
    with open_ends(tmp_path, packed=True) as ends:
        with (tmp_path / "packed" / "head" / "c" / "0" / "0").open("r+b") as shard:
            shard.write(b"\x00\x01\x02\x03")
        head = TieredHead(ends.slices("head", STAYS["none"]), ends.streamer)
        with pytest.raises(CorruptBlockError, match=r"head\.0"):
            head(torch.randn(1, 64))
        ends.streamer.manager.check()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stays", STAYS)
@pytest.mark.parametrize("dtype", TORCH_DTYPES.values())
def test_an_embedding_in_slices_is_an_embedding(tmp_path: Path, stays: str, packed: bool, dtype: torch.dtype) -> None:
    """To the bit, in any shape, with tokens that occur more than once."""
    with open_ends(tmp_path, packed=packed, dtype=dtype) as ends:
        embedding = TieredEmbedding(ends.source, ends.slices("embedding", STAYS[stays]))
        assert (embedding.num_embeddings, embedding.embedding_dim) == (VOCABULARY, 64)
        generator = torch.Generator().manual_seed(2)
        for shape in [(1, 1), (3, 40), (500,), (2, 0)]:
            ids = torch.randint(0, VOCABULARY, shape, generator=generator)
            assert torch.equal(embedding(ids), functional.embedding(ids, ends.embedding))
        ids = torch.tensor([[0, VOCABULARY - 1, 0]])
        assert torch.equal(embedding(ids), functional.embedding(ids, ends.embedding))
        embedding.close()


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_tokens_outside_the_vocabulary(tmp_path: Path, token: int) -> None:
    with open_ends(tmp_path) as ends:
        embedding = TieredEmbedding(ends.source, ends.slices("embedding", STAYS["some"]))
        with pytest.raises(IndexError, match=r"token id outside 0\.\.1500"):
            embedding(torch.tensor([[3, token]]))
        embedding.close()


def test_a_scaled_embedding(tmp_path: Path) -> None:
    """Gemma multiplies by the square root of the width, rounded to the type of the weights."""
    with open_ends(tmp_path, dtype=torch.bfloat16) as ends:
        theirs = Gemma3TextScaledWordEmbedding(VOCABULARY, 64, 0, embed_scale=64**0.5 + 0.01).bfloat16()
        theirs.weight.data = ends.embedding
        scale = embedding_scale(theirs)
        ours = TieredEmbedding(ends.source, ends.slices("embedding", STAYS["some"]), scale)
        ids = torch.tensor([[4, 5, 1000]])
        assert torch.equal(ours(ids), theirs(ids))
        ours.close()


def test_which_embeddings_can_be_replaced() -> None:
    class Odd(nn.Embedding):
        """Does something of its own."""

    assert embedding_scale(nn.Embedding(3, 2)) is None
    with pytest.raises(ModelError, match="input embeddings of class Odd are not supported"):
        embedding_scale(Odd(3, 2))
