"""``offload simulate`` with drives that attend to the KV cache themselves."""

import json
from pathlib import Path
from typing import Any

import pytest

from offload.config_file import read_config_file
from offload.report.write import write_report
from offload.simulation.axes import axes_of, combinations
from offload.simulation.drive_rows import simulate_drives
from offload.simulation.drive_scenario import read_cases
from offload.simulation.drive_sweep import DRIVE_SWEPT, fingerprint
from offload.simulation.scenario_file import find_scenario
from offload.simulation.simulate import simulate_one, simulate_sweep
from simulators.published import find_published
from tests.offload.test_cli import complaint, offload
from tiers.errors import InvalidOptionError

SCENARIO = """
hardware: a6000
model: opt-13b
workload: {prompt_tokens: 256, new_tokens: 128}
batch: 4
tiers: {device: 64MiB, host: 256MiB, nvme: 8GiB}
drive: {engine: [dense, sparf, group_mass], compression: 0.125, drives: 2}
"""


def _nothing(*_: int) -> None:
    """Progress of a test."""


def _rows(folder: Path, text: str = SCENARIO, *, is_sweep: bool = False) -> list[dict[str, Any]]:
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    rows: list[dict[str, Any]] = simulate_drives(path, _nothing, is_sweep=is_sweep)["rows"]
    return rows


def test_every_cache_has_speed_bytes_and_energy(tmp_path: Path) -> None:
    rows = {row["policy"]: row for row in _rows(tmp_path)}
    assert list(rows) == ["tiers", "csd dense", "csd sparf 1/8", "csd group_mass 1/8"]
    for row in rows.values():
        assert row["tokens_per_s"] > 0
        assert row["bytes"] == sum(row["links"].values())
        assert row["energy_j_per_token"] * 4 * 128 == pytest.approx(sum(row["energy_j"].values()))
    tiers, dense, sparf, groups = rows.values()
    # OPT-13B: 40 layers, 40 heads of 128 halves. What crosses the link does not depend on the engine.
    token = 40 * 40 * 128 * 2
    assert dense["links"] == sparf["links"] == groups["links"]
    assert dense["links"] == {"device->csd": 4 * token * (256 * 2 + 128 * 3), "csd->device": 4 * token * 128}
    assert dense["flash_read_bytes"] > sparf["flash_read_bytes"] > groups["flash_read_bytes"] > 0
    assert sparf["flash_written_bytes"] > dense["flash_written_bytes"] == groups["flash_written_bytes"]
    assert tiers["flash_read_bytes"] == 0
    assert set(tiers["links"]) == {"host->device", "device->host", "nvme->device", "device->nvme"}


def test_numbers_of_the_drive_count(tmp_path: Path) -> None:
    alone = SCENARIO.replace("[dense, sparf, group_mass]", "sparf")
    base = _rows(tmp_path, alone)[1]
    slow = _rows(tmp_path, alone.replace("drives: 2", "drives: 2, channels: 1, read_s: 60e-6"))[1]
    assert slow["tokens_per_s"] < base["tokens_per_s"]
    assert slow["flash_read_bytes"] == base["flash_read_bytes"]
    more = _rows(tmp_path, alone.replace("drives: 2", "drives: 2, r: 64, k: 0.5"))[1]
    assert more["flash_read_bytes"] > base["flash_read_bytes"]
    late = _rows(tmp_path, alone.replace("drives: 2", "drives: 2, layer_overhead_s: 0.03"))[1]
    assert late["step_s"] - base["step_s"] == pytest.approx(40 * 0.03)


def test_rows_are_named_by_what_is_read(tmp_path: Path) -> None:
    """Single numbers go before the compression, with every engine; dense attention has none of them."""
    engines = SCENARIO.replace("[dense, sparf, group_mass]", "[dense, sparf, group_mass, group_bounds]")
    rows = _rows(tmp_path, engines.replace("drives: 2", "drives: 2, k: 0.5, groups: 0.25"))[1:]
    names = ["csd dense", "csd sparf 1/2, r 16", "csd group_mass 1/4", "csd group_bounds 1/4"]
    assert [row["policy"] for row in rows] == names
    assert [row["compression"] for row in rows] == [1, 0.5, 0.25, 0.25]
    less = _rows(tmp_path, engines)[1:]
    assert [row["policy"] for row in less[1:]] == ["csd sparf 1/8", "csd group_mass 1/8", "csd group_bounds 1/8"]
    for row, other in zip(rows[1:], less[1:], strict=True):
        assert row["flash_read_bytes"] > other["flash_read_bytes"]


def test_the_way_by_the_host_takes_longer(tmp_path: Path) -> None:
    direct, bounced = _rows(tmp_path), _rows(tmp_path, SCENARIO.replace("drives: 2", "drives: 2, path: host"))
    for first, second in zip(direct[1:], bounced[1:], strict=True):
        assert second["step_s"] > first["step_s"]
        assert second["fingerprint"] != first["fingerprint"]
    assert direct[0]["fingerprint"] == bounced[0]["fingerprint"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("drives: 2", "drive: 2", "unknown key 'drive.drive'; did you mean 'drives'?"),
        ("drives: 2", "chanels: 2", "unknown key 'drive.chanels'; did you mean 'channels'?"),
        ("drives: 2", "recompute_steps: 2", "unknown key 'drive.recompute_steps'"),
        ("tiers:", "teirs:", "unknown key 'teirs'; did you mean 'tiers'?"),
        ("prompt_tokens", "promt_tokens", "unknown key 'workload.promt_tokens'; did you mean 'prompt_tokens'?"),
        ("group_mass", "group_mas", "drive.engine: 'group_mas' is unknown; did you mean 'group_mass'?"),
        ("compression: 0.125", "compression: 2", "drive.compression: 2 is no share"),
        ("compression: 0.125", "compression: 0", "drive.compression: 0 is no share"),
        ("drives: 2", "drives: 3", "drive.drives: 40 KV heads cannot be split evenly over 3"),
        ("drives: 2", "drives: [1, 2]", "drive.drives: is a list; --sweep runs every combination"),
        ("drives: 2", "profile: nosuch", "nosuch"),
        ("model: opt-13b\n", "", "'model' is missing"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(tmp_path: Path, before: str, after: str, said: str) -> None:
    with pytest.raises(InvalidOptionError) as told:
        _rows(tmp_path, SCENARIO.replace(before, after))
    assert said in str(told.value)
    assert str(told.value).startswith(str(tmp_path / "s.yaml"))


def test_latents_are_not_what_drives_attend_to(tmp_path: Path) -> None:
    config = json.loads(find_published("models", "opt-13b").read_text(encoding="utf-8"))
    latent = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
    (tmp_path / "mla.json").write_text(json.dumps(config | latent), encoding="utf-8")
    with pytest.raises(InvalidOptionError, match=r"model: 'mla\.json' caches latents"):
        _rows(tmp_path, SCENARIO.replace("model: opt-13b", "model: mla.json"))


def test_a_cache_that_fits_nowhere_has_no_figures(tmp_path: Path) -> None:
    tiers, *others = _rows(tmp_path, SCENARIO.replace("nvme: 8GiB", "nvme: 4KiB"))
    assert tiers["tokens_per_s"] is None
    assert "give them more" in tiers["note"]
    assert all(row["tokens_per_s"] for row in others)


SWEEP = SCENARIO.replace("compression: 0.125, drives: 2", "compression: [0.5, 0.125], drives: [1, 2]")


def test_a_sweep_of_engines_compressions_and_drives(tmp_path: Path) -> None:
    """Tiers and exact attention once for each number of drives; what a file holds is not computed again."""
    path, out = tmp_path / "s.yaml", tmp_path / "out.json"
    path.write_text(SWEEP, encoding="utf-8")
    found = simulate_sweep(path, out, _nothing)
    assert found["axes"] == {"drive.compression": [0.5, 0.125], "drive.drives": [1, 2]}
    assert len(found["rows"]) == found["cells"] == 2 * (2 + 2 * 2)
    assert json.loads(out.read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    told: list[tuple[int, int]] = []
    assert simulate_sweep(path, out, lambda *step: told.append(step)) == found
    assert told == [(12, 12)]
    path.write_text(SCENARIO, encoding="utf-8")
    with pytest.raises(InvalidOptionError, match=r"holds 8 cells that .* does not have"):
        simulate_sweep(path, out, _nothing)
    with pytest.raises(InvalidOptionError, match=r"--ray: .* leave --ray out"):
        simulate_sweep(path, None, _nothing, ray="auto")


def test_in_one_report_with_a_scenario_of_tiers(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    (tmp_path / "drives.yaml").write_text(SWEEP, encoding="utf-8")
    (tmp_path / "tiers.yaml").write_text(
        "hardware: a6000\nmodel: smollm2-135m\nworkload: {kind: chat, num_requests: 50, block_tokens: 64}\n"
        "tiers: {device: 64MiB}\npolicies: [lru]\n",
        encoding="utf-8",
    )
    drives, tiers = tmp_path / "drives.json", tmp_path / "tiers.json"
    drives.write_text(json.dumps(simulate_sweep(tmp_path / "drives.yaml", None, _nothing)), encoding="utf-8")
    tiers.write_text(json.dumps(simulate_one(tmp_path / "tiers.yaml", _nothing)), encoding="utf-8")
    told = write_report([drives, tiers], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert told["plots"]
    for said in ("Computing drives", "Simulation:", "csd sparf 1/8", "Fastest is"):
        assert said in page, said


def test_the_sweep_that_ships_can_be_read() -> None:
    """Every combination of engine, compression, drives and batch, tiers and exact attention once."""
    path = find_scenario(Path("drives_sweep"))
    settings = read_config_file(path)
    axes = axes_of(settings, path, DRIVE_SWEPT)
    cases = [case for one in combinations(settings, axes) for case in read_cases(one, path)]
    assert len({fingerprint(case) for case in cases}) == 3 * 4 * (2 + 2 * 4)
    assert not any(" at 0x" in repr(case) for case in cases), "a fingerprint would differ in another process"


def test_on_the_command_line(tmp_path: Path) -> None:
    """The one that ships, as a table."""
    ran = offload("simulate", "drives_opt13b", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    for said in ("tiers", "csd dense", "csd sparf 1/8", "J/token"):
        assert said in ran.stdout
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("drives: 2", "drivs: 2"), encoding="utf-8")
    ran = offload("simulate", "s.yaml", "--json", cwd=tmp_path)
    assert ran.returncode == 2
    assert complaint(ran) == "offload: s.yaml: unknown key 'drive.drivs'; did you mean 'drives'?"
