"""What deciding takes: books of KV blocks, guesses at experts. The objects that the runtime uses, on keys alone."""

import numpy as np

from offload.speed.products import median_s
from prefetch.block_store import BlockStore
from prefetch.block_table import TokenTable
from prefetch.expert_predictor import Routing
from prefetch.next_gate import NextGatePredictor
from tiers.block import BlockKey, ExpertKey
from tiers.eviction.spaced import SpacedPolicy
from tiers.manager import Level, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.pool import BlockPool
from tiers.transfer import TransferEngine

_LAYERS, _BLOCKS = 8, 64


def kv_block_s(seconds: float) -> float:
    """Of each block of a layer: looked up, taken into use, given back, and looked at again for what comes ahead."""
    engine = TransferEngine()
    tiers = [MemoryTier(name, _LAYERS * _BLOCKS, 4096) for name in ("device", "host")]
    levels = [Level(tier, BlockPool(tier.num_slots), SpacedPolicy(tier.num_slots)) for tier in tiers]
    store = BlockStore(TieredMemoryManager(engine, levels), 16, num_layers=_LAYERS)
    tables = [TokenTable(store, layer) for layer in range(_LAYERS)]

    def full_blocks(layer: int) -> list[BlockKey]:
        return list(tables[layer].full_blocks())

    prefetcher = store.make_prefetcher(full_blocks)
    assert prefetcher is not None, "blocks may leave the device"
    try:
        for table in tables:
            table.grow(_BLOCKS * 16, lambda *_: None)

        def step() -> None:
            for layer, table in enumerate(tables):
                store.visit(*table.spans(0, table.num_tokens), lambda _: None, in_order=False)
                prefetcher.advance(layer)

        return median_s(step, seconds) / (_LAYERS * _BLOCKS)
    finally:
        engine.close()
        for tier in tiers:
            tier.close()


def prediction_s(seconds: float, *, experts: int = 32, hidden: int = 1024, top_k: int = 4) -> float:
    """Of guessing one layer ahead by its gate, the costliest of the predictors that are not trained."""
    keys = [[ExpertKey(layer, expert, "stored") for expert in range(experts)] for layer in range(_LAYERS)]
    draw = np.random.default_rng(0)
    gates = [draw.standard_normal((experts, hidden), dtype=np.float32) for _ in range(_LAYERS)]
    predictor = NextGatePredictor(gates, keys, top_k)
    given = draw.standard_normal((1, hidden), dtype=np.float32)
    chosen, weights = np.arange(top_k)[None], np.full((1, top_k), 1 / top_k, np.float32)

    def one_pass() -> None:
        predictor.begin(np.zeros((1, 1), np.int64), 1)
        for layer in range(_LAYERS):
            predictor.observe(Routing(layer, given, chosen, weights))
            predictor.predict(layer)

    return median_s(one_pass, seconds) / _LAYERS
