"""The second, smaller copies that a packed store may hold of its experts, and when one is good enough."""

from collections.abc import Mapping, Sequence

from prefetch.precision_rule import PrecisionRule
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError
from tiers.manager import LookupResult, TieredMemoryManager
from tiers.weight_tier import WeightGroup, WeightTier


def low_groups(source: WeightTier, miss_precision: str, *, everything_stays: bool) -> list[WeightGroup]:
    """The low copies of a store that a run has a use for. Raises InvalidOptionError where one is wanted and none is."""
    if miss_precision == "high":
        return []
    low = [group for group in source.groups if group.kind == "low_expert"]
    if not low:
        raise InvalidOptionError(
            f"--miss-precision {miss_precision}: {source.path} keeps no expert in two precisions; "
            "run 'offload pack MODEL OUT --experts int8+int2' and use OUT"
        )
    return low if miss_precision == "low" or not everything_stays else []


class LowCopies:
    """Takes an expert's low copy in place of a missing exact one where ``rule`` says that it adds little.

    ``slots`` are those of the copies in the tier that backs ``manager``, for which they are blocks of their own. An
    exact copy that is there, or on its way, is always used, unless ``always``: then cached or not makes no difference
    to what is computed, and what is measured of the loss holds for every budget. In general, results depend on what was
    cached.
    """

    def __init__(self, manager: TieredMemoryManager, slots: Mapping[ExpertKey, int], *, always: bool) -> None:
        self.rule = PrecisionRule()
        self.num_visits = 0
        self.num_low = 0
        """Of the visits, those of a low copy."""
        self._manager = manager
        self._always = always
        self._slots = slots
        self._copies = {(key.layer, key.expert): key for key in slots}
        for key, slot in slots.items():
            manager.adopt({key: slot})

    def choose(self, keys: Sequence[ExpertKey]) -> list[ExpertKey]:
        """What to visit for the experts ``keys`` of one layer, whose routing the rule was told, in the same order."""
        spared = self.rule.spared(keys[0].layer) if keys else ()
        chosen = [self._spare(key) if key.expert in spared else self._insist(key) for key in keys]
        self.num_visits += len(keys)
        self.num_low += sum(new is not old for new, old in zip(chosen, keys, strict=True))
        return chosen

    def _spare(self, key: ExpertKey) -> ExpertKey:
        is_here = self._manager.lookup(key) is not LookupResult.BELOW
        return key if is_here and not self._always else self._copies[key.layer, key.expert]

    def _insist(self, key: ExpertKey) -> ExpertKey:
        low = self._copies[key.layer, key.expert]
        if not self._always and self._manager.lookup(low) is LookupResult.HIT:
            # The exact copy comes, or is here: its slot is better used otherwise.
            self._manager.discard([low])
            self._manager.adopt({low: self._slots[low]})
        return key
