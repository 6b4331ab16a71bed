"""The two ends of a language model, by slices of vocabulary rows: some on the device, the others on the drive.

They are a large part of a small model: every token needs all rows at the output, but only one at the input.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from offload.arenas import slot_bytes
from offload.dtypes import torch_dtype
from offload.linear import linear
from offload.weights.binding import tensor_view
from offload.weights.rows import RowReader
from offload.weights.streamer import WeightStreamer
from tiers.errors import ModelError
from tiers.weight_tier import WeightGroup, WeightTier


@dataclass(frozen=True, slots=True)
class VocabularySlice:
    """Consecutive rows of the vocabulary. ``rows`` is their tensor if they stay on the device, else None."""

    group: WeightGroup
    rows: Tensor | None

    @property
    def start(self) -> int:
        return self.group.first_row

    @property
    def stop(self) -> int:
        return self.group.first_row + self.group.tensors[0].shape[0]


class TieredHead(nn.Module):
    """The output projection: logits slice by slice, those on the drive streamed."""

    def __init__(
        self,
        slices: Sequence[VocabularySlice],
        streamer: WeightStreamer | None,
        *,
        has_bias: bool = False,
    ) -> None:
        super().__init__()
        self._slices = sorted(slices, key=lambda piece: piece.start)
        self._streamer = streamer
        self.out_features = self._slices[-1].stop
        self._all_rows = _whole(self._slices)
        self.bias: nn.Parameter | None = None
        if has_bias:  # bound to its values later
            dtype = torch_dtype(self._slices[0].group.tensors[0].dtype)
            self.bias = nn.Parameter(torch.empty(self.out_features, dtype=dtype, device="meta"), requires_grad=False)

    @property
    def resident_rows(self) -> Sequence[Tensor]:
        """The matrices that stay, as they are multiplied by: one where the slices lie side by side."""
        if self._all_rows is not None:
            return [self._all_rows]
        return [piece.rows for piece in self._slices if piece.rows is not None]

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., vocabulary]."""
        if self._all_rows is not None:
            logits = linear(hidden, self._all_rows)
            return logits if self.bias is None else logits.add_(self.bias)
        logits = hidden.new_empty(*hidden.shape[:-1], self.out_features)
        for piece in self._slices:
            target = logits[..., piece.start : piece.stop]
            if piece.rows is not None:
                target.copy_(linear(hidden, piece.rows))
            else:
                self._stream(piece, hidden, target)
        return logits if self.bias is None else logits.add_(self.bias)

    def _stream(self, piece: VocabularySlice, hidden: Tensor, target: Tensor) -> None:
        assert self._streamer is not None, "a slice that does not stay needs a streamer"
        key = piece.group.key
        slot = self._streamer.acquire(key)
        try:
            rows = tensor_view(slot_bytes(self._streamer.arena, slot), piece.group.tensors[0])
            target.copy_(linear(hidden, rows))
        finally:
            self._streamer.release(key)


class TieredEmbedding(nn.Module):
    """The input embedding: rows from the device where they are there, else a few pages from the drive."""

    def __init__(self, source: WeightTier, slices: Sequence[VocabularySlice], scale: Tensor | None = None) -> None:
        super().__init__()
        self._slices = sorted(slices, key=lambda piece: piece.start)
        spec = slices[0].group.tensors[0]
        self._reader = RowReader(source, spec)
        self._dtype = torch_dtype(spec.dtype)
        self._all_rows = _whole(self._slices)
        self.num_embeddings = self._slices[-1].stop
        self.embedding_dim = spec.shape[1]
        self._scale = scale

    def forward(self, token_ids: Tensor) -> Tensor:
        """[...] token ids -> [..., hidden]. Raises IndexError for an id outside the vocabulary."""
        self._check(token_ids)
        embedded = (
            self._gather(token_ids) if self._all_rows is None else functional.embedding(token_ids, self._all_rows)
        )
        return embedded if self._scale is None else embedded * self._scale.to(embedded.dtype)

    def _check(self, token_ids: Tensor) -> None:
        """Before the rows are looked up: a GPU would not survive it."""
        if token_ids.numel():
            lowest, highest = (int(bound) for bound in torch.stack(torch.aminmax(token_ids)).tolist())
            if lowest < 0 or highest >= self.num_embeddings:
                raise IndexError(f"token id outside 0..{self.num_embeddings - 1}")

    def _gather(self, token_ids: Tensor) -> Tensor:
        unique, inverse = torch.unique(token_ids, return_inverse=True)
        ids = unique.tolist()
        rows = torch.empty(len(ids), self.embedding_dim, dtype=self._dtype, device=token_ids.device)
        for piece in self._slices:
            first, last = bisect_left(ids, piece.start), bisect_left(ids, piece.stop)
            if first == last:
                continue
            if piece.rows is not None:
                torch.index_select(piece.rows, 0, unique[first:last] - piece.start, out=rows[first:last])
            else:
                read = torch.empty(last - first, self.embedding_dim, dtype=self._dtype)
                self._reader.read(ids[first:last], read)
                rows[first:last] = read
        return functional.embedding(inverse, rows)

    def close(self) -> None:
        """Give the queue for single rows back."""
        self._reader.close()


def _whole(slices: Sequence[VocabularySlice]) -> Tensor | None:
    """All rows as one tensor, where all of them stay and lie one after the other in one arena."""
    rows = [piece.rows for piece in slices]
    first = rows[0]
    end = None if first is None else first.data_ptr()
    for some in rows:
        if first is None or some is None or some.data_ptr() != end:
            return None
        end += some.nbytes
    return first.as_strided((slices[-1].stop, first.shape[1]), first.stride()) if first is not None else None


def embedding_scale(module: nn.Module) -> Tensor | None:
    """What an input embedding multiplies by, for models that do it inside the module.

    Raises ModelError for an embedding that does something else, which a replacement would silently lose.
    """
    if type(module) is nn.Embedding:
        return None
    scale = getattr(module, "embed_scale", None)
    if isinstance(module, nn.Embedding) and scale is not None:
        return scale if isinstance(scale, Tensor) else torch.tensor(scale)
    raise ModelError(f"input embeddings of class {type(module).__name__} are not supported")
