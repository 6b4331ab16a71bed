"""A page in a real browser: what it draws, and what of it can be read."""

import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}
DESKTOP = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}

PLOTS = """() => {
  dispatchEvent(new Event("beforeprint"));
  dispatchEvent(new Event("afterprint"));
  return [...document.querySelectorAll(".plot")].map((plot) => {
    const canvas = plot.querySelector(".canvas"), box = canvas.querySelector(".main-svg").getBoundingClientRect();
    const texts = [...canvas.querySelectorAll("svg text")].filter((one) => one.textContent.trim());
    return {
      title: plot.querySelector("h3").textContent,
      wanted: JSON.parse(plot.querySelector("script").textContent).data.length,
      traces: canvas.querySelectorAll(".barlayer .trace, .scatterlayer .trace, .heatmaplayer .hm").length,
      marks: canvas.querySelectorAll(".bars path, .scatterlayer path, .heatmaplayer image").length,
      width: box.width, height: box.height,
      fonts: Math.min(...texts.map((one) => parseFloat(getComputedStyle(one).fontSize))),
      outside: texts.filter((one) => {
        const place = one.getBoundingClientRect();
        return place.left < -1 || place.right > innerWidth + 1;
      }).map((one) => one.textContent),
      legend: [...plot.querySelectorAll(".legend li")].every(
        (one) => one.getBoundingClientRect().top >= canvas.getBoundingClientRect().bottom - 1),
    };
  });
}"""


def find_browser(playwright: Any) -> str:
    """The one that is installed, or playwright's own; skips where there is none."""
    installed = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    own = playwright.chromium.executable_path
    if installed is None and not Path(own).exists():
        pytest.skip("no Chromium is installed")
    return installed or str(own)


@contextmanager
def opened(browser: Any, path: Path, settings: dict[str, Any]) -> Iterator[Any]:
    """The page at ``path``, which may ask for nothing but itself and say nothing on the console."""
    context = browser.new_context(**settings)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(path.as_uri())
        yield page
        assert said == []
        assert asked == [path.as_uri()]
    finally:
        context.close()


def colours_of(png: bytes) -> int:
    """How many different bytes its rows have: a handful where nothing is drawn."""
    place, data = 8, b""
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        if png[place + 4 : place + 8] == b"IDAT":
            data += png[place + 8 : place + 8 + length]
        place += 12 + length
    return len(set(zlib.decompress(data)))
