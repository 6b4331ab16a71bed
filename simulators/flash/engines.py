"""The arithmetic of a drive as closed forms: what its units do for an attention command."""

from dataclasses import dataclass

from simulators.flash.drive import DriveParameters


@dataclass(frozen=True, slots=True)
class EngineWork:
    """Arithmetic of one phase, over all heads and sequences of the command."""

    flops: float = 0.0
    """Of products of a matrix with a vector, over the entries that pass the filter, while pages are read."""
    weighing_flops: float = 0.0
    """Of the same units, for values that are in their buffer: it waits for the last score, and no page comes in."""
    scores: float = 0.0
    """Through the softmax."""
    ranked: float = 0.0
    """Scores from which the largest are chosen."""
    dram_nbytes: float = 0.0
    """To and from the device's memory: tokens that no page holds yet, scores that wait."""

    def __add__(self, other: "EngineWork") -> "EngineWork":
        return EngineWork(
            self.flops + other.flops,
            self.weighing_flops + other.weighing_flops,
            self.scores + other.scores,
            self.ranked + other.ranked,
            self.dram_nbytes + other.dram_nbytes,
        )


def engine_stations_s(drive: DriveParameters, work: EngineWork) -> dict[str, float]:
    """Seconds that each station is busy with ``work``, all its units side by side."""
    return {
        "gemv": work.flops / (drive.gemv_units * drive.gemv_flops),
        "softmax": work.scores / (drive.softmax_units * drive.softmax_per_s),
        "top-k": work.ranked / drive.ranked_per_s,
        "dram": work.dram_nbytes / drive.dram_bytes_per_s,
    }


def weighing_s(drive: DriveParameters, work: EngineWork) -> float:
    """Seconds in which values are weighed and nothing is read.

    Values come while keys are scored (InstAttention, section IV): what is left to do then shows. So the KV share of a
    decode step is lower in storage than flash alone explains, and sparse attention gains more than the pages it skips.
    """
    return work.weighing_flops / (drive.gemv_units * drive.gemv_flops)


def pipeline_s(stations_s: dict[str, float], jobs: int) -> float:
    """``jobs`` alike that pass through stations one behind the other, each station busy ``stations_s`` with them all.

    The busiest works without a pause; the others show for one job, before its first and behind its last. One job alone
    passes them one after the other.
    """
    busiest = max(stations_s.values(), default=0.0)
    return busiest + (sum(stations_s.values()) - busiest) / jobs
