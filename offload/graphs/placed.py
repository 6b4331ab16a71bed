"""What a model meets in place of its cache while a graph is captured: places that are data of the device."""

from collections.abc import Callable

from torch import Tensor
from transformers.cache_utils import Cache

from offload.attention.paged import AttendPieces, merge_pieces
from offload.graphs.places import Places, num_pieces
from offload.kv.layer import MarkingLayer
from offload.kv.store import KVStore
from tiers.errors import ModelError
from tiers.proven import Proven

KernelFor = Callable[[Tensor, Tensor, Tensor], Proven[AttendPieces]]
"""As ``kernel_for_runs``."""


class PlacedLayer(MarkingLayer):
    """Writes the new token of each row where ``newest`` [rows] says, to be attended to by ``pieces``; see Places.

    It claims to hold no token at all: whatever the host knows of a step would be in the graph for good, so what a model
    makes of its cache's length should be wrong at once, not from the next step on. The proof sees that only where the
    length changes the answer at the proof's own position.
    """

    def __init__(self, store: KVStore, index: int, newest: Tensor, pieces: Tensor, kernel_for: KernelFor) -> None:
        super().__init__(index, None, None)
        self.store = store
        self.newest = newest
        self.pieces = pieces
        self.kernel_for = kernel_for

    @property
    def stored_tokens(self) -> list[int]:
        return [0] * len(self.newest)

    def after_attention(self) -> None:
        super().after_attention()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: rows and their blocks are there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store one token of each row, [rows, heads, 1, dim]."""
        for arena, states in ((self.store.keys, key_states), (self.store.values, value_states)):
            arena.index_copy_(0, self.newest, states[:, :, 0].to(arena.dtype))
        return self.mark(key_states, value_states)


def placed_cache(store: KVStore, places: Places, kernel_for: KernelFor) -> Cache:
    """A layer for each that ``places`` has."""
    by_layer = enumerate(zip(places.newest, places.pieces, strict=True))
    return Cache(layers=[PlacedLayer(store, index, newest, pieces, kernel_for) for index, (newest, pieces) in by_layer])


def attention_nbytes(store: KVStore, rows: int, heads: int, room: int) -> int:
    """Memory that ``attend_placed`` takes: outputs and logsumexps of all pieces in float32, and once more to merge."""
    return rows * num_pieces(room) * heads * (store.values.shape[2] + 1) * 2 * 4


def attend_placed(query: Tensor, layer: PlacedLayer, scale: float) -> Tensor:
    """query [rows, heads, 1, dim] -> [rows, 1, heads, value_dim]. Raises ModelError where there is no kernel for it."""
    store = layer.store
    proven = layer.kernel_for(query[0], store.keys, store.values)
    if proven.value is None:
        raise ModelError(proven.flaw or "attention has no kernel for such heads")
    outputs, logsumexps = proven.value(query[:, :, 0].contiguous(), store.keys, store.values, layer.pieces, scale)
    layer.after_attention()
    return merge_pieces(outputs, logsumexps).unsqueeze(1).to(query.dtype)
