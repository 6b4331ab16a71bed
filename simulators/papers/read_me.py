"""Read-ME's hit ratios by the size of the cache (arXiv 2410.19123, table 4), on routing like the one in the paper.

One of seven experts for each token, the same in every layer, so that one layer stands for all; 2,921 of 4,096 tokens
take the expert of the token before them. Many requests share the cache, and between two tokens of one of them come all
others. Nothing is calibrated.
"""

from simulators.belady import belady_hit_ratio
from simulators.expert_replay import replay
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import passes_of
from simulators.papers.cell import Cell
from simulators.papers.side_by_side import side_by_side
from simulators.routing_generator import RoutingShape, generate_routing
from tiers.eviction.fifo import FIFOPolicy
from tiers.eviction.lru import LRUPolicy

TABLE = "Read-ME (arXiv 2410.19123), table 4"
EXPERTS = 7
KEPT = 2921 / 4096
"""Share of tokens that take the expert of the token before."""
SHAPE = RoutingShape(skew=0.0, locality=0.93, continuity=0.0, topic=0.0)
"""A locality of 0.93 makes that share; no skew is reported, and domains are equally large in the training data."""

_REQUESTS, _TOKENS = 64, 60
_PUBLISHED = {
    2: ("34.19", "33.90", "44.16"),
    3: ("50.14", "52.42", "61.82"),
    4: ("67.52", "66.95", "77.21"),
    5: ("82.91", "83.48", "88.03"),
}
"""By capacity: random, LRU and Belady."""
_NOTE = "FIFO in its place: as good as random eviction where references are independent of each other"


def read_me_trace(seed: int = 0) -> ExpertTrace:
    """What the cache is asked for, a token at a time."""
    lengths = [(0, _TOKENS)] * _REQUESTS
    made = generate_routing(lengths, 1, EXPERTS, 1, shape=SHAPE, seed=seed)
    return side_by_side(made, _REQUESTS, one_by_one=True)


def read_me_cells() -> list[Cell]:
    """Random, LRU and Belady at each capacity, in percent of accesses."""
    trace = read_me_trace()
    passes = passes_of(trace)
    counted = [i for i, one in enumerate(passes) if one.is_decode]
    cells = []
    for capacity, published in _PUBLISHED.items():
        ratios = (
            replay(trace, FIFOPolicy(capacity), passes=passes).counts().hit_ratio,
            replay(trace, LRUPolicy(capacity), passes=passes).counts().hit_ratio,
            belady_hit_ratio(passes, capacity, counted),
        )
        for system, ours, paper in zip(("Random", "LRU", "Belady"), ratios, published, strict=True):
            note = _NOTE if system == "Random" else ""
            cells.append(Cell(TABLE, f"capacity {capacity}", system, "% hits", 100 * ours, paper, note=note))
    return cells
