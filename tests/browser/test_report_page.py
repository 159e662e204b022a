"""A report as a reader has it: in a browser, from a file, without a network."""

from __future__ import annotations

import pytest

from durabert.report.page import page_of
from durabert.specs import ErrorInfo
from tests.recorded import made_evaluation, made_experiment, made_run, sweep_sized

HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def films() -> str:
    bad = ErrorInfo(type="TrainingDiverged", message=HOSTILE)
    runs = [
        made_run("films.gentle", deaths=2, seed=1, learning_rate=2e-5),
        made_run(
            "films.bold",
            seed=2,
            learning_rate=1e-4,
            result={"labels": [HOSTILE, "b"]},
            evaluations=(made_evaluation("films.bold", texts=(HOSTILE,)),),
        ),
        made_run("films.wild", status="failed", error=bad, deaths=1, seed=3, learning_rate=5e-3),
    ]
    return page_of(made_experiment(runs, status="partial"))


async def names(page) -> list[str]:
    return await page.locator("#runs-table tbody th").all_inner_texts()


async def scroll_to_each_chart(page) -> int:
    """Bring every chart before the reader's eyes, wait until it is drawn, and return how many there are."""
    places = await page.locator(".chart").all()
    for place in places:
        await place.scroll_into_view_if_needed()
        await place.locator("svg.marks").wait_for()
    return len(places)


async def test_every_chart_is_drawn_nothing_is_fetched_and_nothing_complains(opened, films):
    report = await opened(films)

    charts = await scroll_to_each_chart(report.page)

    assert charts == 7
    assert [url.partition(":")[0] for url in report.requests] == ["file"]
    assert report.complaints == []
    assert await report.page.title() == "films · durabert"


async def test_a_click_on_a_head_sorts_and_what_is_missing_comes_last(opened, films):
    page = (await opened(films)).page
    head = page.get_by_role("columnheader", name="validation accuracy")
    seconds = page.get_by_role("columnheader", name="seconds")

    await head.get_by_role("button").click()
    assert await names(page) == ["films.wild", "films.gentle", "films.bold"]
    assert await head.get_attribute("aria-sort") == "ascending"
    await head.get_by_role("button").click()
    assert await names(page) == ["films.bold", "films.gentle", "films.wild"]
    for _ in range(2):
        await seconds.get_by_role("button").click()
        assert (await names(page))[-1] == "films.wild"
    assert await head.get_attribute("aria-sort") is None


async def test_dark_and_light_differ_in_the_page_and_in_the_charts(opened, films):
    page = (await opened(films)).page
    text = page.locator("#chart-loss svg text").first
    light = (
        await page.evaluate("getComputedStyle(document.body).backgroundColor"),
        await text.get_attribute("fill"),
    )

    await page.emulate_media(color_scheme="dark")
    await page.wait_for_selector("html[data-drawn='2']")
    dark = (
        await page.evaluate("getComputedStyle(document.body).backgroundColor"),
        await text.get_attribute("fill"),
    )

    assert light[0] != dark[0]
    assert light[1] != dark[1]


async def test_a_phone_shows_all_of_it_without_scrolling_sideways(opened, films):
    page = (await opened(films, width=360)).page

    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    await scroll_to_each_chart(page)
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    assert (await page.locator("#chart-loss svg").bounding_box())["width"] <= 340


async def test_a_chart_is_drawn_when_it_comes_near(opened):
    page = (await opened(page_of(sweep_sized(20, steps=60)))).page
    far = page.locator("#chart-profile svg")
    assert await page.locator("#chart-loss svg").count() == 1
    assert await far.count() == 0

    await page.locator("#chart-profile").scroll_into_view_if_needed()

    await far.wait_for()


async def test_a_choice_of_runs_is_in_a_chart_that_was_out_of_sight_when_it_was_made(opened):
    page = (await opened(page_of(sweep_sized(20, steps=60)))).page
    await scroll_to_each_chart(page)
    legend = page.locator("#chart-parallel .role-legend-label text")
    assert await legend.count() == 6

    await page.evaluate("scrollTo(0, 0)")
    await page.locator(".swatch[aria-pressed=false]").first.click()
    await page.wait_for_selector("html[data-drawn='2']")
    await page.locator("#chart-parallel").scroll_into_view_if_needed()

    await legend.nth(6).wait_for()


async def test_paper_has_every_chart_and_whole_tables(opened):
    page = (await opened(page_of(sweep_sized(20, steps=60)))).page
    charts = await page.locator(".chart").count()
    assert await page.locator(".chart svg.marks").count() < charts

    await page.evaluate(f"addEventListener('afterprint', () => {{ window.printed = {DRAWN}; }})")
    await page.pdf()
    await page.emulate_media(media="print")

    assert await page.evaluate("printed") == charts
    heights = "const { scrollHeight, clientHeight } = document.querySelector('.scroll')"
    whole, shown = await page.evaluate(f"() => {{ {heights}; return [scrollHeight, clientHeight]; }}")
    assert whole == shown


async def test_texts_can_be_read_on_their_ground_in_both_schemes(opened, films):
    for scheme in ("light", "dark"):
        page = (await opened(films, scheme=scheme)).page

        assert await page.evaluate(CONTRASTS) == []


async def test_a_reader_chooses_whose_curves_are_in_colour(opened):
    page = (await opened(page_of(sweep_sized(20, steps=60)))).page
    pressed = page.locator(".swatch[aria-pressed=true]")
    other = page.locator(".swatch[aria-pressed=false]").first
    legend = page.locator("#chart-loss .role-legend-label text")
    assert await pressed.count() == 6

    name = (await other.get_attribute("aria-label")).partition(" ")[0]
    await other.click()
    await page.wait_for_selector("html[data-drawn='2']")

    assert await pressed.count() == 7
    assert name in await legend.all_text_contents()


async def test_many_runs_are_filtered_by_name(opened):
    page = (await opened(page_of(sweep_sized(20, steps=60)))).page

    await page.get_by_label("Filter by name").fill("01")

    assert await page.locator("#runs-table tbody tr:visible").count() == 11
    assert await page.get_by_role("status").inner_text() == "11 of 20"


async def test_a_link_to_a_run_opens_its_details(opened, films):
    page = (await opened(films)).page

    await page.get_by_role("link", name="films.wild").click()

    assert await page.locator("#run-2").get_attribute("open") is not None
    assert HOSTILE in await page.locator("#run-2 .warning").inner_text()


DRAWN = "document.querySelectorAll('.chart svg.marks').length"

CONTRASTS = """() => {
  const channels = (text) => text.match(/[0-9.]+/g).map(Number);
  const luminance = ([red, green, blue]) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = [red, green, blue].map((channel) => linear(channel / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const parts = channels(getComputedStyle(one).backgroundColor);
      if (parts.length === 3) return parts;
    }
    return [255, 255, 255];
  };
  const found = new Set();
  const texts = "h1, h2, p, dt, dd, a, th, td, .state, summary, figcaption";
  for (const element of document.querySelectorAll(texts)) {
    if (!element.innerText || !element.getClientRects().length) continue;
    const [one, other] = [luminance(channels(getComputedStyle(element).color)), luminance(ground(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) found.add(`${element.tagName} ${element.className} ${contrast.toFixed(2)}`);
  }
  return [...found];
}"""
"""Texts below the contrast of WCAG 2.2, criterion 1.4.3: 4.5 to 1 by relative luminance."""
