"""The report of a sweep in a browser."""

from __future__ import annotations

import pytest

from durabert.report.sweep_page import sweep_page
from durabert.specs import ErrorInfo, FinalResult, FinalRun, FineTuneConfig
from tests.browser.test_report_page import CONTRASTS, HOSTILE, names, scroll_to_each_chart
from tests.recorded import made_sweep


@pytest.fixture(scope="module")
def tuned() -> str:
    scores = {"metrics": {"accuracy": 0.91}, "test_metrics": {"accuracy": 0.9}}
    runs = [
        FinalRun(run="tuned-final.seed-43", seed=43, **scores),
        FinalRun(run="tuned-final.seed-44", seed=44, error=ErrorInfo(type="X", message=HOSTILE)),
    ]
    final = FinalResult(config=FineTuneConfig(), runs=runs, test_mean=0.9)
    return sweep_page(*made_sweep(30, final=final))


async def test_every_chart_of_a_sweep_is_drawn_and_nothing_is_fetched(opened, tuned):
    report = await opened(tuned)

    charts = await scroll_to_each_chart(report.page)

    assert charts == 4
    assert [url.partition(":")[0] for url in report.requests] == ["file"]
    assert report.complaints == []
    assert await report.page.title() == "tuned · durabert"


async def test_trials_sort_by_a_parameter_and_those_without_it_come_last(opened, tuned):
    page = (await opened(tuned)).page
    best = (await names(page))[0]
    head = page.get_by_role("columnheader", name="warmup ratio")

    await head.get_by_role("button").click()

    assert (await names(page))[0] != best
    assert await page.locator("#runs-table tbody tr").last.locator("[data-key=constant]").count() == 1


async def test_a_reader_chooses_whose_lines_are_in_colour(opened, tuned):
    page = (await opened(tuned)).page
    await scroll_to_each_chart(page)
    legend = page.locator("#chart-parallel .role-legend-label text")
    assert await legend.count() == 6

    await page.locator(".swatch[aria-pressed=true]").first.click()
    await page.locator("#chart-parallel").scroll_into_view_if_needed()

    await legend.nth(5).wait_for(state="detached")


async def test_a_sweep_fits_a_phone_and_can_be_read_in_both_schemes(opened, tuned):
    for scheme in ("light", "dark"):
        page = (await opened(tuned, scheme=scheme, width=360)).page
        await scroll_to_each_chart(page)

        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        assert await page.evaluate(CONTRASTS) == []
