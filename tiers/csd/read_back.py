"""Keys and values as they were written, for a host that attends to them itself."""

import numpy as np

from tiers.csd.commands import TokensRead
from tiers.csd.pages import SequencePages


def read_tokens(pages: SequencePages, start: int, num_tokens: int) -> TokensRead:
    """``num_tokens`` tokens from ``start`` on, all of which the drive holds. Raises CorruptBlockError."""
    shape, end = pages.shape, start + num_tokens
    groups = np.arange(start // shape.tokens_per_group, shape.num_groups(end))
    first = start % shape.tokens_per_group
    keys, values = (np.empty((shape.kv_heads, num_tokens, shape.head_dim), shape.dtype) for _ in range(2))
    for head in range(shape.kv_heads):
        for target, groups_of in ((keys, pages.key_groups), (values, pages.value_groups)):
            target[head] = groups_of(head, groups).reshape(-1, shape.head_dim)[first : first + num_tokens]
    return TokensRead(keys, values)
