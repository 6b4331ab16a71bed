"""Pages of results as a browser draws them, on a phone at night and on a desk by day."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from offload.commands.output import json_text
from offload.config import RunConfig
from offload.report.write import write_report
from offload.run import run
from offload.simulation.simulate import simulate_one, simulate_sweep
from tests.offload.report.browser import DESKTOP, PHONE, PLOTS, colours_of, find_browser, opened
from tests.offload.report.test_report_cli import BENCH, SCENARIO

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(playwright), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[str, Path]:
    """What commands say, by their names."""
    folder = tmp_path_factory.mktemp("results")
    scenario, sweep = folder / "one.yaml", folder / "many.yaml"
    scenario.write_text(SCENARIO, encoding="utf-8")
    text = SCENARIO.replace("host: 64MiB", "host: [64MiB, 96MiB]").replace("hardware: rtx4090", "hardware: [t4, a100]")
    sweep.write_text(text.replace("num_requests: 60", "num_requests: 30"), encoding="utf-8")
    trial = {"value": 1.5, "settings": {"window": 2}}
    trace = folder / "trace.json"
    answers = {
        "simulate": simulate_one(scenario, lambda *_: None),
        "sweep": simulate_sweep(sweep, None, lambda *_: None),
        "run": run(RunConfig(), tiny_llama, prompt_ids=[5, 6, 7], max_new_tokens=4, trace_out=trace).as_json(),
        "bench": BENCH,
        "tune": {"trials": [trial, {**trial, "value": 2}], "objective": "tokens/s"},
        "info": {"requests": 2, "accesses": 9, "unique_blocks": 4, "ideal_hit_ratio": 0.5},
    }
    for name, answer in answers.items():
        (folder / f"{name}.json").write_text(json_text(answer), encoding="utf-8")
    return {name: folder / f"{name}.json" for name in (*answers, "trace")}


def written(names: Sequence[str], results: dict[str, Path], folder: Path) -> Path:
    page = folder / "out.html"
    write_report([results[name] for name in names], page)
    return page


EVERYTHING = ("simulate", "sweep", "run", "bench", "tune", "info", "trace")


@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize(
    "names",
    [EVERYTHING, *(pytest.param((name,), marks=pytest.mark.slow) for name in EVERYTHING)],
    ids=lambda names: "all" if names == EVERYTHING else names[0],
)
def test_all_is_drawn_and_can_be_read(
    screen: dict[str, Any], names: tuple[str, ...], browser: Any, results: dict[str, Path], tmp_path: Path
) -> None:
    with opened(browser, written(names, results, tmp_path), screen) as page:
        plots = page.evaluate(PLOTS)
        assert len(plots) >= len(names)
        for plot in plots:
            assert plot["traces"] == plot["wanted"] > 0, plot
            assert plot["marks"] >= plot["traces"], plot
            assert plot["fonts"] >= 12, plot
            assert plot["outside"] == [], plot
            assert plot["legend"], plot
            assert 300 < plot["width"] <= screen["viewport"]["width"], plot
            assert plot["height"] > 100, plot
        assert page.evaluate("document.documentElement.scrollWidth") <= screen["viewport"]["width"]
        assert colours_of(page.screenshot()) > 32


def test_a_reader_has_it_their_way(browser: Any, results: dict[str, Path], tmp_path: Path) -> None:
    """A drag across the lanes zooms, a click on the legend hides a line, and colours follow when night falls."""
    with opened(browser, written(("simulate",), results, tmp_path), DESKTOP) as page:
        plot = page.locator(".plot", has_text="What happened when: lru").first
        plot.scroll_into_view_if_needed()
        canvas = plot.locator(".canvas")
        plot.locator(".main-svg").first.wait_for()
        box = canvas.bounding_box()
        before = canvas.evaluate("(one) => one.layout.xaxis.range.slice()")
        y = box["y"] + 60
        page.mouse.move(box["x"] + 0.4 * box["width"], y)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=4)
        page.mouse.up()
        after = canvas.evaluate("(one) => one.layout.xaxis.range.slice()")
        assert before[0] < after[0] < after[1] < before[1]
        plot.get_by_role("button", name="evictions").click()
        assert canvas.evaluate("(one) => one.data.filter((trace) => trace.visible === false).length") == 1
        colour = "(one) => getComputedStyle(one.querySelector('.xtick text')).fill"
        by_day = canvas.evaluate(colour)
        page.emulate_media(color_scheme="dark")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert canvas.evaluate(colour) != by_day
        assert canvas.evaluate("(one) => one.data.filter((trace) => trace.visible === false).length") == 1


def test_without_scripts_the_tables_say_it(browser: Any, results: dict[str, Path], tmp_path: Path) -> None:
    page_file = written(("simulate", "run"), results, tmp_path)
    with opened(browser, page_file, {**PHONE, "java_script_enabled": False}) as page:
        assert "The plots need JavaScript" in page.inner_text("body")
        assert not any(plot.is_visible() for plot in page.locator(".plot").all())
        assert "belady" in page.inner_text("table >> nth=0")
        page.get_by_role("link", name="Run: run.json").click()
