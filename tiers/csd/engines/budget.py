"""How much an engine reads: a number, or a share of what there is."""

import math

from tiers.errors import InvalidOptionError

Amount = int | float
"""An int is a number; a float is a share in (0, 1]."""


def check_amount(amount: Amount, what: str) -> None:
    """Raises InvalidOptionError for an amount that fits nothing."""
    if isinstance(amount, int):
        if amount < 1:
            raise InvalidOptionError(f"{what} is {amount}; it has to be at least 1")
    elif not 0 < amount <= 1:
        raise InvalidOptionError(f"{what} is {amount}; a share is above 0 and at most 1, as 0.125")


def check_share(share: float, what: str) -> float:
    """``share``, of which 1 is everything and not one; raises InvalidOptionError as ``check_amount``."""
    check_amount(float(share), what)
    return float(share)


def count_of(amount: Amount, total: int) -> int:
    """How many of ``total``; at least one of a share, where there is one, and never more than all."""
    return min(amount if isinstance(amount, int) else math.ceil(amount * total), total)
