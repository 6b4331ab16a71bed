"""Approximate scores from a few channels of the keys: SparQ (Ribar et al., ICML 2024, section 3).

All query heads of a KV head share one choice of channels: the magnitudes of their queries are summed.
"""

import numpy as np

from tiers.csd.engines.read import largest
from tiers.csd.pages import Floats, Indices, SequencePages


def top_channels(queries: Floats, r: int) -> Indices:
    """The ``r`` channels in which ``queries`` [heads_per_kv, head_dim] are largest, ascending."""
    return largest(np.abs(queries).sum(axis=0), r)


def top_channel_pages(queries: Floats, r: int, order: Indices, channels_per_page: int) -> Indices:
    """As many whole pages as ``r`` channels could fill, those in which the queries are largest; all their channels."""
    by_page = order.reshape(-1, channels_per_page)
    magnitudes = np.abs(queries).sum(axis=0)[by_page].sum(axis=1)
    return np.sort(by_page[largest(magnitudes, -(-r // channels_per_page))].ravel())


def approximate_scores(queries: Floats, pages: SequencePages, kv_head: int, channels: Indices) -> Floats:
    """[heads_per_kv, num_tokens] from ``channels`` of the keys; ``queries`` [heads_per_kv, head_dim] unscaled.

    The scale is sqrt(head_dim) times the root of the share of the query's L1 norm that the channels hold.
    """
    keys = pages.key_channels(kv_head, channels).astype(np.float32, copy=False)
    chosen = queries[:, channels]
    held: Floats = np.abs(chosen).sum(axis=1, keepdims=True)
    whole: Floats = np.abs(queries).sum(axis=1, keepdims=True)
    share: Floats = np.divide(held, whole, out=np.ones_like(held), where=held > 0)
    found: Floats = (chosen @ keys) / np.sqrt(queries.shape[1] * share)
    return found


def learn_channel_order(queries: Floats) -> Indices:
    """An order of the channels of one KV head, so that those selected together share pages.

    ``queries`` [n, heads_per_kv, head_dim] of decode steps. Channels keep their magnitude from query to query, so the
    order by mean magnitude puts those that most queries choose side by side.
    """
    return np.argsort(-np.abs(queries).sum(axis=1).mean(axis=0), kind="stable")
