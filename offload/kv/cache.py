"""A transformers Cache whose layers are block tables, or lie in drives that compute."""

import weakref

from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from offload.kv.drive_layer import DriveLayer, only_appends
from offload.kv.drives import KVDrives
from offload.kv.store import KVStore
from offload.kv.table import BlockTable
from offload.kv.tiered_layer import TieredLayer
from tiers.block import BlockKey
from tiers.errors import ModelError


class TieredCache(Cache):
    """The KV cache of one ``generate`` call or one conversation; give its blocks back with ``close`` (or ``with``).

    Pass it as ``past_key_values``. Supports batches, left padding, beam search, ``crop``, sliding-window layers and
    ``copy.deepcopy``, which shares full blocks: the way to start many conversations from one prompt. Blocks are made by
    any number of caches over one KVStore, within one budget. With ``drives`` the layers without a window are in those,
    where tokens are only appended: no beam search, no ``crop``, no ``deepcopy``.
    """

    def __init__(self, store: KVStore, config: PreTrainedConfig, drives: KVDrives | None = None) -> None:
        self.store = store
        self._config = config
        rows = None if drives is None else drives.new_rows()
        store.reclaim()
        itself = weakref.ref(self)  # no cycles: blocks come back as soon as nobody has the cache any more
        self.prefetcher = store.make_prefetcher(lambda index: _full_blocks(itself(), index))
        self._ours: list[TieredLayer | DriveLayer] = []
        for index, window in enumerate(layer_windows(config)):
            before = self._ours[-1] if self._ours else None
            if window is None and rows is not None:
                self._ours.append(DriveLayer(rows, index, before))
            else:
                self._ours.append(TieredLayer(store, index, window, before, self.prefetcher))
        super().__init__(layers=list(self._ours))
        weakref.finalize(self, store.abandon, self.tables()).atexit = False
        if rows is not None:
            weakref.finalize(self, rows.abandon).atexit = False

    def full_blocks(self, index: int) -> list[BlockKey]:
        """The blocks of a layer that may be on a lower tier."""
        layer = self._ours[index]
        return layer.full_blocks() if isinstance(layer, TieredLayer) else []

    def tables(self) -> list[list[BlockTable]]:
        """Of every layer in tiers, the block tables of its rows."""
        return [layer.rows for layer in self._ours if isinstance(layer, TieredLayer)]

    def make_room(self) -> None:
        """One token more in every row of every layer, see TieredLayer; for a cache that has tokens and no drives."""
        for layer in self._ours:
            assert isinstance(layer, TieredLayer)
            layer.make_room()

    def crop(self, tokens_to_remove: int) -> None:
        """Roll all layers back or, where that raises InvalidOptionError, none; see TieredLayer."""
        tokens_to_remove = int(tokens_to_remove)  # some versions of transformers hand over a tensor
        for layer in self._ours:
            layer.kept_by(tokens_to_remove)
        for layer in self._ours:
            layer.crop(tokens_to_remove)

    def close(self) -> None:
        """Give every block back. The cache is empty and usable afterwards."""
        if self.prefetcher:
            self.prefetcher.stop()
        self.reset()

    def __deepcopy__(self, memo: dict[int, object]) -> "TieredCache":
        tiered = [layer for layer in self._ours if isinstance(layer, TieredLayer)]
        if len(tiered) < len(self._ours):
            raise only_appends("copied")
        other = TieredCache(self.store, self._config)
        try:
            for layer, copy in zip(tiered, other._ours, strict=True):
                assert isinstance(copy, TieredLayer), "a cache without drives has no other layers"
                layer.share_with(copy)
        except BaseException:
            other.close()
            raise
        return other

    def __enter__(self) -> "TieredCache":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _full_blocks(cache: TieredCache | None, index: int) -> list[BlockKey]:
    return [] if cache is None else cache.full_blocks(index)


def layer_windows(config: PreTrainedConfig) -> list[int | None]:
    """The sliding window of every layer, None for full attention. Raises ModelError for other kinds of layers."""
    num_layers = getattr(config, "num_hidden_layers", None)
    if num_layers is None:
        raise ModelError("its configuration has no num_hidden_layers, and so no single stack of layers")
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return [window if getattr(config, "use_sliding_window", True) else None] * num_layers
    others = sorted({repr(kind) for kind in kinds if kind not in ("full_attention", "sliding_attention")})
    if others:
        raise ModelError(f"layers of type {', '.join(others)} are not supported; only full and sliding attention are")
    return [window if kind == "sliding_attention" else None for kind in kinds]
