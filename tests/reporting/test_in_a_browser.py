"""The report in a real browser: it complains of nothing, fits a phone, sorts and searches, and reads without scripts too."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import browser as browser
from pages import DESK, PHONE, assert_accessible, assert_fits, opened

from fastlift.reporting.html import write_report

MakeRun = Callable[..., Path]  # the fixture of conftest.py


def page_of(runs: list[Path], folder: Path) -> str:
    return write_report(runs, folder / "report.html").as_uri()


@pytest.mark.parametrize("classes", [3, 10, 200, 1000])
def test_a_page_of_any_number_of_classes(browser: Any, make_run: MakeRun, tmp_path: Path, classes: int) -> None:
    url = page_of([make_run(classes=classes)], tmp_path)
    for look in ({}, {"viewport": PHONE, "device_scale_factor": 2}):
        with opened(browser, url, **look) as page:
            assert_fits(page)
            assert page.locator("svg:visible").count() >= 9
            broken = "() => Array.from(document.images).filter((it) => !it.naturalWidth).length"
            assert page.evaluate(broken) == 0
            if classes in (10, 200):
                assert_accessible(page)


def test_runs_side_by_side(browser: Any, make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"a run of a rather long name, number {seed}", seed=seed, classes=40) for seed in range(5)]
    url = page_of(runs, tmp_path)
    for look in ({"color_scheme": "dark"}, {"viewport": PHONE}):
        with opened(browser, url, **look) as page:
            assert_fits(page)
            assert_accessible(page)


def test_dark_and_print_have_colours_of_their_own(browser: Any, make_run: MakeRun, tmp_path: Path) -> None:
    url = page_of([make_run(classes=60)], tmp_path)
    ground = "() => getComputedStyle(document.body).backgroundColor"
    with opened(browser, url, color_scheme="dark") as page:
        assert page.evaluate(ground) == "rgb(20, 23, 28)"
        assert_accessible(page)
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        assert page.locator("nav").is_hidden()
        assert page.locator("#classes ~ div tbody tr:visible").count() == 40
        assert page.get_by_text("The first 40 of 60 rows are printed.").is_visible()
        assert page.get_by_text("model.rank").is_visible()
        assert page.pdf()[:5] == b"%PDF-"


def column(page: Any, number: int) -> list[str]:
    return page.locator(f"#classes ~ div tbody tr:visible td:nth-child({number})").all_inner_texts()


def test_classes_are_sorted_and_searched_by_keyboard(browser: Any, make_run: MakeRun, tmp_path: Path) -> None:
    names = [f"{kind} {number}" for number in range(20) for kind in ("cat", "dog")]
    with opened(browser, page_of([make_run(classes=40, class_names=names)], tmp_path)) as page:
        before = column(page, 1)
        button = page.get_by_role("button", name=re.compile("Training images"))
        button.focus()
        page.keyboard.press("Enter")
        counts = [int(text.replace(",", "")) for text in column(page, 3)]
        assert counts == sorted(counts)
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Training images")
        page.keyboard.press("Space")
        assert [int(text.replace(",", "")) for text in column(page, 3)] == counts[::-1]
        page.locator("#classes ~ div thead").get_by_role("button", name=re.compile("^Class")).click()
        assert column(page, 1)[:3] == ["cat 0", "cat 1", "cat 2"]  # numbers in names count as numbers
        page.get_by_label("Search classes").focus()
        page.keyboard.type("DOG 1")
        assert sorted(column(page, 1)) == sorted(name for name in before if "dog" in name and "1" in name)
        assert page.get_by_role("status").filter(has_text="11 of 40").count() == 1
        page.get_by_label("Search classes").fill("")
        assert sorted(column(page, 1)) == sorted(before)
        assert_accessible(page)


def test_without_scripts_everything_is_there(browser: Any, make_run: MakeRun, tmp_path: Path) -> None:
    url = page_of([make_run(classes=40)], tmp_path)
    with opened(browser, url, java_script_enabled=False) as page:
        assert page.locator("#classes ~ div tbody tr").count() == 40
        assert page.locator("#classes ~ div tbody tr").first.is_visible()
        assert page.locator("button, input").count() == 0
        assert page.get_by_alt_text("A test image of the class striped red star 39").first.is_visible()


def test_the_policy_lets_nothing_else_run_or_load(browser: Any, make_run: MakeRun, tmp_path: Path) -> None:
    """A script or an image that somebody smuggles into the file stays dead."""
    path = write_report([make_run()], tmp_path / "report.html")
    added = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\" alt=''>"
    path.write_text(path.read_text().replace("</main>", f"{added}</main>"))
    context = browser.new_context(viewport=DESK)
    page, told = context.new_page(), []
    page.on("console", lambda message: told.append(message.text))
    page.goto(path.as_uri())
    assert page.title() == "lift – fastlift report"
    assert sum("Content Security Policy" in text for text in told) >= 2
    context.close()


def test_the_checks_would_notice(browser: Any, tmp_path: Path) -> None:
    """Of a page that sticks out, whose button has no name, and whose script throws."""
    pixel = base64.b64encode(b"GIF89a\1\0\1\0\0\0\0;").decode()
    bad = tmp_path / "bad.html"
    bad.write_text(
        f'<html><body><img src="data:image/gif;base64,{pixel}" style="width: 900px"><button></button></body></html>'
    )
    with opened(browser, bad.as_uri(), viewport=PHONE) as page:
        with pytest.raises(AssertionError):
            assert_fits(page)
        with pytest.raises(AssertionError):
            assert_accessible(page)
    (tmp_path / "throws.html").write_text("<script>throw new Error('no')</script>")
    with pytest.raises(AssertionError, match="no"), opened(browser, (tmp_path / "throws.html").as_uri()):
        pass
