"""Tables for notebooks: nothing of a name becomes markup, and the classes that users hold have one."""

from __future__ import annotations

from fastlift.models.prediction.result import SHOWN, Prediction, Predictions
from fastlift.system.html_table import html_table

EVIL = "<script>\x1b"


def test_texts_are_escaped_and_numbers_have_their_form() -> None:
    shown = html_table(EVIL, (EVIL,), [(EVIL, 1234567, 12.345, None)])
    assert "<script>" not in shown
    assert shown.count("&lt;script&gt;\\u001b") == 3
    assert all(f">{number}</td>" in shown for number in ("1,234,567", "12.3", "–"))


def test_predictions_are_tables() -> None:
    one = Prediction(f"{EVIL}.jpg", ("cat & dog", "hat"), (0.75, 0.25), (1, 0))
    shown = one._repr_html_()
    assert "<script>" not in shown
    assert "<td>cat &amp; dog</td><td>75.0 %</td>" in shown
    unsure = Prediction("b.jpg", ("cat",), (0.4,), (0,), threshold=0.5)
    bad = Prediction("c.jpg", problem="is <text>")
    assert "b.jpg: none of these" in unsure._repr_html_()
    several = Predictions([one, unsure, bad])._repr_html_()
    assert "3 images<" in several
    assert "none of these</td>" in several
    assert "is &lt;text&gt;" in several


def test_a_long_list_shows_its_first_rows() -> None:
    shown = Predictions([Prediction(f"{i}.jpg", ("cat",), (0.5,), (0,)) for i in range(SHOWN + 1)])._repr_html_()
    assert f"{SHOWN + 1} images, of which {SHOWN} are shown" in shown
    assert f"{SHOWN - 1}.jpg" in shown
    assert f"<td>{SHOWN}.jpg" not in shown
