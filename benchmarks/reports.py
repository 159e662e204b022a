"""How large a report of 200 runs or trials of a sweep is, and how long it takes to make and to open."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.browser.conftest import BROWSERS, OPTIONS
from tests.recorded import made_sweep, sweep_sized

from benchmarks.figures import summary
from durabert.report.page import page_of
from durabert.report.sweep_page import sweep_page

RUNS = 200
STEPS = 2000
TIMES = 7


def measure() -> dict[str, object]:
    """Bytes, seconds to write, to the first picture with all tables, and to the charts near the window."""
    experiment = sweep_sized(RUNS, steps=STEPS)
    sweep, spec = made_sweep(RUNS)
    return {
        "runs": RUNS,
        "experiment": _figures(lambda: page_of(experiment)),
        "sweep": _figures(lambda: sweep_page(sweep, spec)),
    }


def _figures(make: Callable[[], str]) -> dict[str, object]:
    began = time.perf_counter()
    page = make()
    seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "report.html"
        file.write_text(page, encoding="utf-8")
        painted, drawn = asyncio.run(_opened(file))
    return {
        "megabytes": round(len(page.encode()) / 1e6, 2),
        "make_seconds": round(seconds, 2),
        "painted_seconds": summary(painted),
        "drawn_seconds": summary(drawn),
    }


async def _opened(file: Path) -> tuple[list[float], list[float]]:
    from playwright.async_api import async_playwright

    binary = next(filter(None, map(shutil.which, BROWSERS)))
    painted, drawn = [], []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=binary, args=OPTIONS)
        for _ in range(TIMES):
            page = await browser.new_page()
            await page.goto(file.as_uri())
            await page.wait_for_selector("html[data-drawn]")
            entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            painted.append(await page.evaluate(entry) / 1000)
            drawn.append(float(await page.evaluate("document.documentElement.dataset.drawnAt")) / 1000)
            await page.close()
        await browser.close()
    return painted, drawn
