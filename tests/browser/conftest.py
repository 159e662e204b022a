"""A real browser: Debian's Chromium or another one on the PATH, driven by Playwright."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from playwright.async_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Opened:
    """A page, and what it asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A browser without a window, for the whole session."""
    from playwright.async_api import async_playwright

    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=binary, args=OPTIONS)
        yield browser
        await browser.close()


@pytest.fixture
async def opened(browser: Browser, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Opened]]]:
    """Open a document from a file, with its charts drawn."""
    contexts = []

    async def open_page(document: str, *, scheme: str = "light", width: int = 1280) -> Opened:
        file = tmp_path / "report.html"
        file.write_text(document, encoding="utf-8")
        context = await browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True
        )
        contexts.append(context)
        opened = Opened(await context.new_page())
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("console", lambda message: opened.complaints.append(message.text))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        await opened.page.goto(file.as_uri())
        await opened.page.wait_for_selector("html[data-drawn]")
        return opened

    yield open_page
    for context in contexts:
        await context.close()
