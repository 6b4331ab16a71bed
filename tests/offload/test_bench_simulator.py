"""The benchmark of the simulator, end to end: real runs of tiny models in processes of their own."""

import statistics
from pathlib import Path
from typing import Any

import pytest

from offload.bench.published import published_cells, published_rows, published_summary
from offload.bench.simulator import Sizes, bench_simulator
from offload.bench.simulator_setups import Setup, everything, expert_share, setups, setups_with, share
from simulators.profile import DEFAULT, HardwareProfile
from tests.offload.zoo import save_model
from tiers.errors import InvalidOptionError

CELLS = published_cells()
CONFIG: dict[str, Any] = {"eos_token_id": None, "vocab_size": 256}


def assume(nvme_dir: Path, caches: Path) -> HardwareProfile:
    """No machine is measured for a test."""
    return DEFAULT


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("dense"), "llama", **CONFIG)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(
        tmp_path_factory.mktemp("mixture"), "mixtral", num_local_experts=6, num_experts_per_tok=2, **CONFIG
    )


SETUPS = (
    Setup("streamed", share(0.3), 20, 4),
    Setup("experts", expert_share(0.5), 20, 4, is_mixture=True, policy="lru", predictor="next_gate"),
    Setup("in a drive", everything, 20, 4, csd=1),
)


@pytest.mark.slow
def test_every_row_says_what_was_foretold_and_what_was(dense: Path, mixture: Path, tmp_path: Path) -> None:
    sizes = Sizes(setups=SETUPS, turn=1, repeats=2, stream_s=0.01, measure=assume)
    seen: list[tuple[int, int]] = []
    found = bench_simulator(dense, tmp_path, mixture=mixture, sizes=sizes, progress=lambda *step: seen.append(step))
    rows = found["rows"][: len(SETUPS)]
    assert [row["name"] for row in rows] == [setup.name for setup in SETUPS]
    for row in rows:
        assert row["ours"] > 0
        assert row["measured"] > 0
        assert row["error"] == pytest.approx(row["ours"] / row["measured"] - 1)
        assert row["plan_error"] == pytest.approx(row["plan"] / row["measured"] - 1)
        assert row["error"] == min(row["errors"])
        assert row["measured"] in row["runs"]
        assert row["drive_then_gib_s"] > 0
    streamed, experts, in_drive = rows
    assert [row for row in rows if "modelled_tokens_per_s" in row] == [in_drive]
    # The plan knows of the drive, in which a step of a tiny model spends most of its time.
    assert in_drive["plan"] < 4 * in_drive["ours"]
    # What is on its way when the counters are read may be in one and not in the other.
    assert streamed["bytes"] == pytest.approx(streamed["measured_bytes"], rel=0.3)
    assert experts["measured_bytes"] > 0
    assert experts["bytes"] > 0
    published = found["rows"][len(SETUPS) :]
    assert published == published_rows(CELLS)
    assert published_summary(CELLS).items() <= found.items()
    assert found["median_error"] == statistics.median(abs(row["error"]) for row in rows)
    assert found["median_error"] <= found["worst_error"]
    assert seen[-1] == (3, 3)


def test_setups_are_chosen_by_their_names() -> None:
    names = [setup.name for setup in setups()]
    assert [setup.name for setup in setups_with(())] == names
    assert [setup.name for setup in setups_with(["a half, l"])] == ["experts, a half, lru", "experts, a half, lfu"]
    several = [setup.name for setup in setups_with(["8192", "nine tenths"])]
    assert several == [name for name in names if "8192" in name or "nine" in name]


def test_a_whole_name_is_that_setup_alone() -> None:
    assert [setup.name for setup in setups_with(["all resident"])] == ["all resident"]
    assert len(setups_with(["resident"])) == 3


def test_what_no_setup_is_called_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="--only 'tenth of': in the name of no setup; they are: all resident;"):
        setups_with(["nine", "tenth of"])
