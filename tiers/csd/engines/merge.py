"""Parts of one attention put together: the drive's tokens and those that the host still holds."""

from collections.abc import Sequence

import numpy as np

from tiers.csd.engines.base import AttentionResult
from tiers.csd.engines.softmax import log_sum_exp, weights


def merge(parts: Sequence[AttentionResult]) -> AttentionResult:
    """The attention over the union of the parts' tokens, which must be disjoint.

    Exact for exact parts (online softmax: Milakov and Gimelshein, 2018). It is how a host keeps the newest tokens until
    there are enough of them to write (HILOS, ASPLOS 2026): its own part is one more. Heads that saw no token are zero.
    """
    scores = np.stack([part.logsumexp for part in parts], axis=-1)
    total = log_sum_exp(scores)
    outputs = np.stack([part.output for part in parts], axis=1)
    output = np.einsum("hp,hpd->hd", weights(scores, total), outputs)
    return AttentionResult(output.astype(np.float32, copy=False), total)
