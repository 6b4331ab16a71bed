"""The fewest experts that have to come over each link, and the soonest that they can have come."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from simulators.belady import belady_misses
from simulators.expert_visits import Pass
from tiers.block import ExpertKey


def fewest_fetches(passes: Sequence[Pass], slots: int, counted: Collection[int], among: Collection[ExpertKey]) -> int:
    """Misses of Belady's cache in the passes ``counted``, were ``among`` all experts that there are.

    Whatever else wants the same ``slots`` can only add to them.
    """
    own = [replace(one, visits=tuple(tuple(key for key in v if key in among) for v in one.visits)) for one in passes]
    misses = belady_misses(own, slots)
    return sum(misses[place] for place in counted)


def soonest(total: int, fewest: Mapping[str, int], seconds: Mapping[str, float]) -> dict[str, int]:
    """How many of ``total`` fetches come over each link, at most two, so that all of them end soonest.

    Over each come at least its ``fewest``; a fetch takes ``seconds`` there.
    """
    if len(seconds) == 1:
        return dict.fromkeys(seconds, total)
    (one, one_s), (other, other_s) = seconds.items()
    balanced = round(total * other_s / (one_s + other_s))
    count = min(max(balanced, fewest[one]), total - fewest[other])
    return {one: count, other: total - count}
