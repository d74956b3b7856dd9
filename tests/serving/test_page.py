"""The page in a real browser: an image that is chosen, dropped or pasted is answered; nothing else is loaded."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from serving_process import Server

import fastlift

WAIT_MS = 120_000


class Page:
    """The opened page, and what its console and its network said."""

    def __init__(self, browser: Any, server: Server, **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(server.url)
        self.tells("#name", "run")

    def tells(self, where: str, text: str | re.Pattern[str]) -> None:
        """Wait until a text stands there. The page's policy lets nothing be evaluated that would look for itself."""
        from playwright.sync_api import expect

        expect(self.page.locator(where)).to_have_text(text, timeout=WAIT_MS)

    def answer(self) -> str:
        self.page.wait_for_selector("#result:not([hidden])")
        return str(self.page.text_content("#answer"))


@pytest.fixture
def page(browser: Any, server: Server) -> Page:
    return Page(browser, server, viewport={"width": 390, "height": 800})


@pytest.fixture
def image(tiny_data: Path) -> Path:
    return tiny_data / "test" / "class3" / "1.jpg"


def drop(page: Any, file: Path, event: str = "drop") -> None:
    """As if the file were dropped on the page, or pasted."""
    page.evaluate(
        """([bytes, event]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", { type: "image/jpeg" }));
            const made = event === "paste"
                ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
                : new DragEvent(event, { dataTransfer: data, bubbles: true, cancelable: true });
            document.getElementById("drop").dispatchEvent(made);
        }""",
        [list(file.read_bytes()), event],
    )


def test_an_image_that_is_chosen(page: Page, image: Path, run: Path, server: Server) -> None:
    wanted = fastlift.load_run(run).predict(image)
    page.page.set_input_files("#file", str(image))
    assert page.answer() == wanted.answer
    names = page.page.locator("#classes th").all_text_contents()
    assert names == list(wanted.names)
    shown = [float(text.removesuffix(" %")) for text in page.page.locator("#classes td").all_text_contents()]
    assert shown == pytest.approx([100 * value for value in wanted.probabilities], abs=0.051)
    assert page.page.evaluate("document.getElementById('image').naturalWidth") > 0, "the image itself is shown"
    assert page.page.get_attribute("#image", "alt") == "The image 1.jpg"
    assert page.said == []
    assert all(url.startswith((server.url, "blob:", "data:")) for url in page.asked)
    page.page.fill("#top", "2")
    page.page.fill("#threshold", "0.95")
    page.page.keyboard.press("Tab")
    page.tells("#answer", "None of these")
    assert page.page.locator("#classes tr").count() == 2


def test_a_field_that_is_emptied_keeps_what_it_said(page: Page, image: Path) -> None:
    """An empty field asked for five classes, or for the threshold 0, and showed neither."""
    page.page.set_input_files("#file", str(image))
    page.answer()
    for field, value in (("#top", "2"), ("#threshold", "0.95")):
        page.page.fill(field, value)
        page.page.keyboard.press("Tab")
    page.tells("#answer", "None of these")
    for field, value in (("#top", "2"), ("#threshold", "0.95")):
        with page.page.expect_response("**/predict?*") as answered:
            page.page.fill(field, "")
            page.page.keyboard.press("Tab")
        assert answered.value.url.endswith("predict?top=2&threshold=0.95")
        assert page.page.input_value(field) == value
    page.tells("#answer", "None of these")
    assert page.page.locator("#classes tr").count() == 2


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_an_image_that_is_dropped_or_pasted(page: Page, image: Path, run: Path, event: str) -> None:
    drop(page.page, image, event)
    assert page.answer() == fastlift.load_run(run).predict(image).answer
    assert page.said == []


def test_what_is_no_image_is_told_and_the_next_one_answered(page: Page, image: Path, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_text("no image at all")
    page.page.set_input_files("#file", str(tmp_path / "no.jpg"))
    page.tells("#error", "No answer: the file is text, not an image")
    assert page.page.is_hidden("#result")
    (tmp_path / "large.jpg").write_bytes(b"\0" * 1_100_000)
    page.page.set_input_files("#file", str(tmp_path / "large.jpg"))
    page.tells("#error", re.compile("1.1 megabytes"))
    page.page.set_input_files("#file", str(image))
    page.answer()
    assert page.page.text_content("#error") == ""


def test_the_answer_to_an_older_image_is_not_waited_for(page: Page, image: Path, tmp_path: Path) -> None:
    """Also where the newer one is refused without asking the server."""
    (tmp_path / "large.jpg").write_bytes(b"\0" * 1_100_000)
    page.page.route("**/predict?*", lambda route: None)  # it is never answered
    page.page.set_input_files("#file", str(image))
    page.page.wait_for_selector("#form[aria-busy]", state="attached")
    page.page.set_input_files("#file", str(tmp_path / "large.jpg"))
    page.tells("#error", re.compile("1.1 megabytes"))
    page.page.wait_for_selector("#form:not([aria-busy])", state="attached")
    assert page.page.is_hidden("#result")


def overflow(page: Any) -> Any:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_in_both_schemes(
    browser: Any, server: Server, image: Path, width: int, scheme: str
) -> None:
    opened = Page(browser, server, viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened.page.set_input_files("#file", str(image))
    opened.answer()
    assert overflow(opened.page) <= 0
    back = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 31)"}[scheme]
    assert opened.said == []


def test_it_is_used_by_keyboard(page: Page) -> None:
    """Everything is reached in its order, and each control has a name."""
    reached = []
    for _ in range(4):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["file", "top", "threshold", "A"]
    for control in ("file", "top", "threshold"):
        assert page.page.evaluate(f"document.getElementById('{control}').labels[0].textContent.trim()")


@pytest.mark.skipif(importlib.util.find_spec("axe_playwright_python") is None, reason="axe is not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, server: Server, image: Path, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # What axe brings into the page is no part of it, and the page's policy would not let it in.
    opened = Page(browser, server, color_scheme=scheme, bypass_csp=True)
    opened.page.set_input_files("#file", str(image))
    opened.answer()
    found = Axe().run(opened.page)
    assert found.response["violations"] == [], found.generate_report()
