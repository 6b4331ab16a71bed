"""What ``--experts`` may say of a packed store. Without the codecs, so that settings are read before torch is there."""

from typing import Final

from tiers.errors import InvalidOptionError

ORDER: Final = ("stored", "int8", "int4-sparse", "int4", "int3-sparse", "int2")
"""Precisions from exact to small."""

COLD: Final = "int2-cold"
"""Four bits, and two for experts that are seldom chosen."""

CHOICES: Final = (*(name for name in ORDER if name not in ("stored", "int2")), COLD)
"""For all experts. In int2 alone a model says nothing of use."""


def parse_precision(name: str) -> tuple[str, str | None]:
    """One of CHOICES and None, or the two precisions of "int8+int2". Raises InvalidOptionError."""
    if "+" not in name:
        if name not in CHOICES:
            raise InvalidOptionError(f"unknown; choose one of {', '.join(CHOICES)}")
        return name, None
    high, _, low = name.partition("+")
    if high not in ORDER or low not in ORDER or ORDER.index(high) >= ORDER.index(low):
        raise InvalidOptionError(f"not a precision and a lower one; write two of {', '.join(ORDER)}, in this order")
    return high, low
