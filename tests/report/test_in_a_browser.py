"""The pages in a real Chromium: axe-core finds nothing, a phone shows them whole, and they load nothing.

The browser is the one on PATH; without one the tests skip. With KUBOOTH_SCREENSHOTS=FOLDER a picture of each page is
left there, for people to look at.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from report.test_device import FACTS
from report.test_quality_page import QUALITY

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.report import ReportData, render_report
from kubooth_trainer.report_compare import Column, render_comparison
from kubooth_trainer.selection import Probe, Selection

MakeConfig = Callable[..., TrainConfig]
MakeData = Callable[..., ReportData]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
VIEWPORTS = {"phone": (390, 844), "desktop": (1280, 900)}
LONG = "s3://models/personalized/" + "a-rather-long-folder-name/" * 6
SHOW_ALL = """async () => {
  document.querySelectorAll('details').forEach(each => each.open = true);
  document.querySelectorAll('img').forEach(each => each.loading = 'eager');
  await Promise.all([...document.images].map(each => each.decode()));
}"""
CUT_OFF = """() => [...document.querySelectorAll('body *')]
  .filter(each => each.getBoundingClientRect().right > innerWidth + 1
    && !each.closest('.scroll, pre, nav ul, .skip, svg'))
  .map(each => each.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on PATH: install the package chromium")
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=found)
        yield running
        running.close()


def probe(step: int, dino: float) -> Probe:
    return Probe(step=step, dino=dino, pres=0.2, clip_t=0.3)


def full(data: MakeData, config: MakeConfig) -> ReportData:
    """A report with every section, and texts that are hard to fit on a phone."""
    blurred = "01.jpg is blurred (sharpness 12, the others 340): replace it by one in focus."
    return data(
        config=config(output={"uri": LONG}, training={"lr_schedule": "Cosine"}),
        quality=QUALITY,
        training=FACTS,
        selection=Selection(probes=(probe(400, 0.6), probe(800, 0.5)), step=400, stopped_early=False),
        photo_check=[("00.jpg", []), ("01.jpg", [blurred, "It is small."])],
        warnings=[blurred, f"{LONG} held an unfinished result, which was replaced."],
    )


def write_page(name: str, data: MakeData, config: MakeConfig, folder: Path) -> Path:
    report = full(data, config)
    columns = [
        Column(name=f"learning-rate-{n}e-6, seed {n}", uri=f"{LONG}{n}/", report=replace(report, config=variant))
        for n in range(1, 7)
        for variant in [config(training={"learning_rate": n * 1e-6, "seed": n})]
    ]
    now = datetime(2026, 3, 5, 14, 30, tzinfo=UTC)
    html = {
        "report": lambda: render_report(report),
        "bare": lambda: render_report(data(comparisons=[], history=[], class_images=[], photos=[])),
        "comparison": lambda: render_comparison(columns[:2], title="Two results", created=now),
        "sweep": lambda: render_comparison(columns, title="six-learning-rates-and-a-long-name", created=now),
    }[name]()
    path = folder / f"{name}.html"
    path.write_text(html)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", VIEWPORTS)
@pytest.mark.parametrize("name", ["report", "bare", "comparison", "sweep"])
def test_everyone_can_read_it_on_any_screen(
    name: str, viewport: str, scheme: str, browser: Browser, data: MakeData, config: MakeConfig, tmp_path: Path
) -> None:
    width, height = VIEWPORTS[viewport]
    address = write_page(name, data, config, tmp_path).as_uri()
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.evaluate(SHOW_ALL)
    keep_picture(page, f"{name}-{viewport}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT_OFF) == []
    assert violations(page) == []
    assert (said, [each for each in asked if not each.startswith("data:")]) == ([], [address])
    page.close()


def test_the_keyboard_skips_to_the_results(
    browser: Browser, data: MakeData, config: MakeConfig, tmp_path: Path
) -> None:
    page = browser.new_page()
    page.goto(write_page("report", data, config, tmp_path).as_uri())
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    box = skip.bounding_box()
    assert skip.inner_text() == "Skip to the results"
    assert box is not None
    assert box["x"] >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    page.close()


def test_faults_are_found(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_content(
        "<html lang=en><title>t</title><main><h1>t</h1><img src='data:,'><p style='width: 800px; color: #ddd'>faint"
    )
    assert [each.split(": ")[1] for each in violations(page)] == ["color-contrast", "image-alt"]
    assert len(page.evaluate(CUT_OFF)) == 1
    page.close()


def violations(page: Page) -> list[str]:
    """What axe-core finds by all its rules, a line each: impact, rule, the first place."""
    found = Axe().run(page).response["violations"]
    return [f"{each['impact']}: {each['id']}: {each['help']}: {each['nodes'][0]['target']}" for each in found]


def keep_picture(page: Page, name: str) -> None:
    if folder := os.environ.get("KUBOOTH_SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)
