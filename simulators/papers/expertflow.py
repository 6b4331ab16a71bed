"""ExpertFlow's hit ratios on Switch-32 (arXiv 2410.17954): its predictive cache against LRU, on made-up routing.

Twelve layers of 32 experts, one for each token. ``CS`` is the number of slots for each layer, as we read it: with as
many for all layers together LRU could find nothing. The predictive cache shares them out as it sees fit. ``BS`` is how
many sequences are decoded side by side. The path of every token is predicted before the first layer, nine experts in
ten of it rightly, as the paper reports of its predictor at least; of what is predicted as many experts as a layer has
slots are fetched ahead.
"""

import numpy as np

from prefetch.oracle import OraclePredictor
from simulators.expert_replay import PrefetchLimits, replay
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import Pass, keys_of, passes_of
from simulators.papers.cell import Cell
from simulators.papers.side_by_side import side_by_side
from simulators.routing_generator import RoutingShape, generate_routing
from tiers.block import ExpertKey
from tiers.eviction.per_layer import PerLayerLRUPolicy
from tiers.eviction.plec import PLECPolicy

TABLE = "ExpertFlow (arXiv 2410.17954), Switch-32"
LAYERS, EXPERTS = 12, 32
ACCURACY = 0.9
SHAPE = RoutingShape(skew=0.0, locality=0.7, continuity=0.9, topic=0.2)
"""The locality is calibrated on LRU at CS 16 and BS 4; no skew is reported."""

_REQUESTS, _TOKENS = 32, 16
_PUBLISHED = {(16, 4): ("76.61", "91.90"), (16, 16): ("58.37", "85.91"), (8, 16): ("36.22", "71.89")}
"""By CS and BS: LRU and PLEC."""
_NOTE = "what is on its way when it is needed counts as a hit here; transfers are not timed"


def expertflow_cells() -> list[Cell]:
    """LRU and the predictive cache, in percent of accesses."""
    lengths = [(0, _TOKENS)] * _REQUESTS
    made = generate_routing(lengths, LAYERS, EXPERTS, 1, shape=SHAPE, seed=0)
    cells = []
    for (slots, batch), (lru, plec) in _PUBLISHED.items():
        trace = side_by_side(made, batch)
        row = f"CS {slots}, BS {batch}"
        by_lru, by_plec = _lru(trace, slots), _plec(trace, slots)
        is_calibrated = (slots, batch) == (16, 4)
        cells.append(Cell(TABLE, row, "LRU", "% hits", 100 * by_lru, lru, is_calibrated=is_calibrated))
        cells.append(Cell(TABLE, row, "PLEC", "% hits", 100 * by_plec, plec, note=_NOTE))
    return cells


def _lru(trace: ExpertTrace, slots: int) -> float:
    return replay(trace, PerLayerLRUPolicy(slots * LAYERS)).counts().hit_ratio


def _plec(trace: ExpertTrace, slots: int) -> float:
    passes = passes_of(trace)
    predictor = OraclePredictor(_predicted(passes, keys_of(trace)), list(range(LAYERS)), LAYERS)
    limits = PrefetchLimits(per_step=EXPERTS, most=slots, least_probability=0.0)
    return replay(trace, PLECPolicy(slots * LAYERS), predictor, limits, passes=passes).counts().hit_ratio


def _predicted(passes: list[Pass], keys: list[list[ExpertKey]]) -> list[list[list[ExpertKey]]]:
    """What each layer of each pass will visit, some of it wrong."""
    random = np.random.default_rng(0)

    def guess(key: ExpertKey) -> ExpertKey:
        return key if random.random() < ACCURACY else keys[key.layer][random.integers(EXPERTS)]

    return [[[guess(key) for key in visit] for visit in one.visits] for one in passes]
