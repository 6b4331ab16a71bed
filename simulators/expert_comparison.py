"""The table of policies and predictors on one recorded routing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prefetch.expert_predictor import ExpertPredictor
from simulators.belady import belady_hit_ratio
from simulators.expert_replay import PrefetchLimits, replay
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import passes_of
from tiers.block import BlockKey
from tiers.errors import TraceError
from tiers.eviction.base import EvictionPolicy

MakePolicy = Callable[[int], EvictionPolicy[BlockKey]]
MakePredictor = Callable[[ExpertTrace], ExpertPredictor]


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One policy with one predictor at one size of the cache; decode passes only. Ratios are of 0 to 1."""

    slots: int
    policy: str
    predictor: str | None
    hit_ratio: float
    """Of accesses, those that did not have to be fetched on demand."""
    belady_hit_ratio: float
    """The most that any policy could have without fetching ahead, for as many slots."""
    fetched_per_pass: float
    """Experts moved for a pass, on demand and ahead."""
    wasted_per_pass: float
    """Of these, given up before any use."""
    accuracy: float | None
    """Of the predictor: precision and recall at the number that was needed."""
    precision: float | None
    recall: float | None

    @property
    def of_belady(self) -> float:
        """Hits as a share of Belady's; above 1 only with a predictor."""
        return self.hit_ratio / self.belady_hit_ratio if self.belady_hit_ratio else 1.0

    @property
    def belady_gap(self) -> float:
        """How much of the hit ratio is left to win."""
        return self.belady_hit_ratio - self.hit_ratio


def compare(
    trace: ExpertTrace,
    slots: Sequence[int],
    policies: Mapping[str, MakePolicy],
    predictors: Mapping[str, MakePredictor | None],
    limits: Callable[[int], PrefetchLimits | None] = lambda _: None,
) -> list[ComparisonRow]:
    """Every policy with every predictor (None: without one) at every number of slots, in this order of nesting.

    ``limits`` gives, for a number of slots, how much may be fetched ahead; None means that predictions are only scored
    and told to policies that go by forecasts. Raises TraceError for a trace without decode passes, BudgetError for
    slots that do not hold what one token needs.
    """
    passes = passes_of(trace)
    decode = [i for i, one in enumerate(passes) if one.is_decode]
    if not decode:
        raise TraceError(f"the trace of '{trace.model}' has no decode pass; record one of a longer generation")
    rows = []
    for size in slots:
        best = belady_hit_ratio(passes, size, decode)
        for policy, make_policy in policies.items():
            for predictor, make_predictor in predictors.items():
                guesser = make_predictor(trace) if make_predictor else None
                result = replay(trace, make_policy(size), guesser, limits(size) if guesser else None, passes=passes)
                counts, num_passes = result.counts(), sum(result.is_decode)
                score = result.score if guesser else None
                rows.append(
                    ComparisonRow(
                        slots=size,
                        policy=policy,
                        predictor=predictor if guesser else None,
                        hit_ratio=counts.hit_ratio,
                        belady_hit_ratio=best,
                        fetched_per_pass=counts.fetched / num_passes,
                        wasted_per_pass=counts.wasted / num_passes,
                        accuracy=score.accuracy if score else None,
                        precision=score.precision if score else None,
                        recall=score.recall if score else None,
                    )
                )
    return rows
