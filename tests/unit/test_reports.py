"""The HTML reports' layout in headless Chromium, on a desktop and on a telephone."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raycap import pages
from raycap.debug.report import STYLE

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: raycap[test]")
TELEPHONE, DESKTOP = 390, 1280  # pixels
Show = Callable[[str, int], Any]


@pytest.fixture(scope="module")
def show() -> Iterator[Show]:
    """Opens a body in a window of some width."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no chromium or google-chrome on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])

        def opened(body: str, width: int) -> Any:
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.set_content(pages.page("title", subtitle="", body=body, style=STYLE))
            return page

        yield opened
        browser.close()


def test_the_frame_in_a_debug_report_is_no_wider_than_its_photo(show: Show) -> None:
    """A small photo's frame was as wide as the text below it, and "what the encoder sees" lay beside the photo."""
    photo = '<svg xmlns="http://www.w3.org/2000/svg" width="100" height="80"></svg>'
    body = (
        f"<div class=inputs><figure><div class=frame><img src='data:image/svg+xml,{photo}'><div class=window></div>"
        f"</div><figcaption>{'a long text ' * 10}</figcaption></figure></div>"
    )
    assert show(body, DESKTOP).locator(".frame").bounding_box()["width"] == 100


def test_words_in_a_table_stay_whole_on_a_telephone(show: Show) -> None:
    """Beside wide columns of numbers the first was a letter wide, its words written downwards."""
    head = ("a caption's", "mean", "least", "5 %", "median", "95 %", "99 %", "most")
    page = show(pages.table(head, [("tokens", *[1234] * 7)]), TELEPHONE)
    lines = page.evaluate("getComputedStyle(document.querySelector('td')).lineHeight.replace('px', '') * 2")
    assert page.locator("td").first.bounding_box()["height"] < lines
    assert page.evaluate("document.documentElement.scrollWidth") == TELEPHONE
