"""What generating takes of a machine beside bytes over links: products by their size, and the runtime's own work.

``offload doctor`` measures all of it with small models of its own. Who has not measured gets the defaults, by which a
step is its bytes over the memory's bandwidth and nothing else takes time.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

Table = tuple[tuple[int, float], ...]
"""Rows (bytes, bytes per second) by rising bytes."""


@dataclass(frozen=True, slots=True)
class RuntimeProfile:
    """All in seconds unless a name says otherwise; 0 is the default of what was not measured."""

    products: Mapping[str, Table] = field(default_factory=dict)
    """By dtype: bytes per second at which a matrix of so many bytes is multiplied by one vector, out of memory, in a
    pass of a whole model: a little slower than one matrix after the other."""
    vector_products: Mapping[str, Table] = field(default_factory=dict)
    """The same with the kernel that is chosen for experts and for the head. Where it is another one, as in bfloat16, it
    was timed one matrix after the other."""
    cores: int = 1
    """Threads that compute side by side."""
    attention_bytes_per_s: float = 0.0
    """Keys and values that one thread attends to for one token; 0 is as fast as the memory. Heads are shared out."""
    attention_flops_per_s: float = 0.0
    """Of a prompt's tokens attending to each other; 0 is as the profile has it for products."""
    activations: Mapping[str, Table] = field(default_factory=dict)
    """By dtype: bytes of what a layer's products give, of all tokens of a pass, per second in which all else is done
    with them: norms, positions, activation functions, sums. By those bytes, since many do not fit into caches."""
    step_s: float = 0.0
    """Of a pass whatever its layers: the loop of generation, the embedding, the choice of the next token."""
    layer_s: float = 0.0
    """Of a decoder layer besides its products: modules, norms, the cache of keys and values."""
    group_s: float = 0.0
    """Of a weight group that is streamed: its hooks, the books of its slot."""
    wake_s: float = 0.0
    """And of one that had to be waited for: threads that fell asleep, caches that others have used meanwhile."""
    slice_s: float = 0.0
    """Of a slice of the head where it is multiplied by itself, besides its product."""
    moe_layer_s: float = 0.0
    """What a layer with experts takes more than one without."""
    moe_byte_s: float = 0.0
    """And for each byte of one of its experts: after a stretch of small operations the first large products are slower
    than one after the other, the longer the larger they are."""
    expert_s: float = 0.0
    """Of one expert that is visited."""
    missed_expert_s: float = 0.0
    """Of one that has to be fetched, besides."""
    prediction_s: float = 0.0
    """Of guessing the experts of one layer."""
    kv_block_s: float = 0.0
    """Of a KV block that is looked up where blocks may be elsewhere."""
    kv_part_s: float = 0.0
    """Of each run of blocks that attention visits, and of merging it with the others, after a layer's products."""
    kv_visit_s: float = 0.0
    """Of a sequence in a layer whose blocks may be elsewhere, however many they are."""
    kv_moved: Mapping[str, Table] = field(default_factory=dict)
    """By link: bytes of a KV block per second for which moving it keeps the model from computing: the books of both
    its places, and what else wants the cores and the memory meanwhile."""
    busy_share: float = 1.0
    """Of its speed, what computing keeps while a drive is read as fast as it goes."""
    stream_bytes_per_s: float = 0.0
    """At which the layers of a model come from a drive through the engine, over and over; 0 is as the link has it. A
    drive that others share gives what was read before sooner than what was not."""
    transfer_s: float = 0.0
    """What a transfer takes besides its requests: the hand-over to a thread, and waking whoever waits."""
    request_s: float = 0.0
    """Processor time of the thread of a link for one request to the drive."""
    checksum_bytes_per_s: float = 0.0
    """At which blocks that left memory are checked; 0 is for free."""


def rate_of(table: Table, nbytes: int) -> float:
    """Bytes per second. Between two rows the seconds are joined by a line; beyond the ends the nearest row counts."""
    if nbytes <= table[0][0]:
        return table[0][1]
    for (small, slow), (large, fast) in itertools.pairwise(table):
        if nbytes <= large:
            place = (nbytes - small) / (large - small)
            return nbytes / ((1 - place) * small / slow + place * large / fast)
    return table[-1][1]
