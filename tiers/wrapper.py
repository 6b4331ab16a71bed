"""A tier around a tier: what meters, delays or breaks another one changes two or three methods of this."""

from typing import Any

from tiers.tier import Tier


class TierWrapper(Tier):
    """Delegates everything to ``wrapped``, and has just those optional abilities that ``wrapped`` has.

    A subclass that changes an ability, say ``open_queue``, defines it as ``_open_queue``: it takes the place of the
    wrapped tier's where that has one, so that ``isinstance(wrapper, SupportsDirectIO)`` stays the truth.
    """

    def __init__(self, wrapped: Tier) -> None:
        self.wrapped = wrapped
        self.name = wrapped.name
        self.num_slots = wrapped.num_slots
        self.block_nbytes = wrapped.block_nbytes
        for ability in dir(wrapped):
            is_public_method = not ability.startswith("_") and callable(getattr(wrapped, ability))
            if is_public_method and not hasattr(Tier, ability):
                # Attributes of the instance, since __getattr__ alone does not satisfy isinstance from Python 3.12 on.
                setattr(self, ability, getattr(self, f"_{ability}", None) or getattr(wrapped, ability))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def read(self, slot: int, buffer: memoryview) -> None:
        self.wrapped.read(slot, buffer)

    def write(self, slot: int, buffer: memoryview) -> None:
        self.wrapped.write(slot, buffer)

    def close(self) -> None:
        self.wrapped.close()
