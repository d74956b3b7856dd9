"""Progress for people who call fastlift from Python: in a notebook's cell, on a terminal, as lines, or nowhere."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from fastlift.errors import UserError
from fastlift.reporting import notebook
from fastlift.reporting.console import Terminal
from fastlift.reporting.notebook import Notebook, ui_for
from fastlift.system.progress import Quiet


class Cell:
    """Stands for the cell of a notebook: what was displayed in it, as it is after each update."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def display(self, html: str, display_id: bool) -> Cell:
        assert display_id
        self.update(html)
        return self

    def update(self, html: str) -> None:
        self.shown.append(html)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    cell = Cell()
    display = types.ModuleType("IPython.display")
    display.HTML, display.display = str, cell.display  # type: ignore[attr-defined]
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    ipython.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return cell


def test_auto_is_a_cell_in_a_notebook_alone(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(ui_for("auto"), Notebook)
    sys.modules["IPython"].get_ipython = lambda: types.SimpleNamespace()  # type: ignore[attr-defined]
    assert isinstance(ui_for("auto"), Terminal)  # IPython on a terminal
    monkeypatch.delitem(sys.modules, "IPython")
    assert isinstance(ui_for("auto"), Terminal)


def test_none_is_silence_and_an_object_is_taken() -> None:
    assert isinstance(ui_for(None), Quiet)
    mine = Quiet()
    assert ui_for(mine) is mine
    with pytest.raises(UserError, match="expected 'auto', None"):
        ui_for("loud")  # type: ignore[arg-type]


def test_a_bar_is_one_element_that_ends_where_the_work_ends(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(notebook.time, "monotonic", lambda: now)
    with Notebook().bar("training", 1000) as bar:
        for done in range(1, 1001):
            now += 0.01
            bar.update(done, f"loss <{done}>")
    assert 40 <= len(cell.shown) <= 55  # five a second, and the first and the last
    assert 'value="0" max="1000"' in cell.shown[0]
    assert 'value="1000" max="1000"' in cell.shown[-1]
    assert "1,000/1,000" in cell.shown[-1]
    assert "loss &lt;1000&gt;" in cell.shown[-1]
    assert " left" in cell.shown[20]
    assert " left" not in cell.shown[-1]


def test_a_bar_shows_where_an_error_stopped_it_and_needs_no_total(cell: Cell) -> None:
    def fails() -> None:
        with Notebook().bar("reading", None) as bar:
            bar.update(3)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert "<progress" in cell.shown[-1]
    assert "max" not in cell.shown[-1]
    assert " 3</div>" in cell.shown[-1]


def test_sentences_go_to_the_cell_with_escapes_shown(capsys: pytest.CaptureFixture[Any]) -> None:
    Notebook().say("a\x1b[2J\nb")
    assert capsys.readouterr().out == "a\\u001b[2J\nb\n"
