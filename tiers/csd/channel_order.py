"""The order of channels in the channel index, learnt by the drive from the first queries that it meets.

The engine that gains from it, ``channel_groups``, is that of no attention of the command line: it is for those who use
``tiers.csd`` directly.
"""

import numpy as np

from tiers.csd.engines.channels import learn_channel_order
from tiers.csd.pages import Floats, Indices, KVShape

QUERIES = 4
"""Decode steps from which an order is learnt: channels keep their magnitude from query to query."""


class ChannelLearner:
    """Keeps the queries of one layer of one sequence until there are enough of them."""

    def __init__(self, shape: KVShape) -> None:
        self._shape = shape
        self._queries: list[Floats] = []

    @staticmethod
    def nbytes(shape: KVShape) -> int:
        """Of the drive's memory: the queries, and the order that comes of them."""
        return 4 * QUERIES * shape.heads * shape.head_dim + 8 * shape.kv_heads * shape.head_dim

    def note(self, query: Floats) -> Indices | None:
        """One more query [heads, head_dim]; the order [kv_heads, head_dim] once there are enough."""
        shape = self._shape
        self._queries.append(query.reshape(shape.kv_heads, shape.heads_per_kv, shape.head_dim))
        if len(self._queries) < QUERIES:
            return None
        queries = np.stack(self._queries, axis=1)
        return np.stack([learn_channel_order(of_head) for of_head in queries])
