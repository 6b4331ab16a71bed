"""What the plots of one setting say, by figures that are known."""

from typing import Any

import pytest

from offload.report.policy_plots import policy_plots


def row(policy: str, hit_ratio: float, belady_gap: float) -> dict[str, Any]:
    figures = dict.fromkeys(("tokens_per_s", "ttft_s", "bytes", "stall_s"), 1.0)
    return {"policy": policy, "hit_ratio": hit_ratio, "belady_gap": belady_gap, **figures}


def test_the_dashed_line_is_above_every_policy() -> None:
    """Side by side, answers keep Belady from evicting what it would: its row may be below that of a policy."""
    plots = {plot.title: plot for plot in policy_plots([row("lru", 0.30, 0.01), row("belady", 0.29, 0.02)])}
    figure = plots["Hit ratio by policy"].figure
    (line,) = figure.layout["shapes"]
    assert line["x0"] == line["x1"] == pytest.approx(31.0)
