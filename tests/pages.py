"""Pages in a browser, as a user sees them: on a desk or a phone, in light and dark. See ``browser`` for the browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page of a browser; whatever it complains of on its console, or throws, fails the test.

    Args:
        options: of the context, such as ``viewport``, ``color_scheme`` and ``java_script_enabled``.
    """
    context = browser.new_context(**{"viewport": DESK} | options)
    try:
        page, complaints = context.new_page(), []
        page.on("console", lambda told: complaints.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        yield page
        assert not complaints, complaints
    finally:
        context.close()


def assert_accessible(page: Any) -> None:
    """axe-core finds nothing: contrasts, names, labels, headings, keyboard."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page)
    assert len(found.response["passes"]) > 10  # it looked
    told = [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found.response["violations"]]
    assert not told, told


def assert_fits(page: Any) -> None:
    """Nothing sticks out at the side: the page as a whole never scrolls sideways, and no plot does in its frame."""
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    cut = page.evaluate(
        """() => Array.from(document.querySelectorAll("svg, img"))
            .filter((it) => it.checkVisibility() && it.getBoundingClientRect().width)
            .filter((it) => { const box = it.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth; })
            .map((it) => it.outerHTML.slice(0, 120))"""
    )
    assert not cut, cut
