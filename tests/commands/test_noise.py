"""At the command line libraries' warnings do not reach the user; ours do, as sentences, and ``-W`` still has its way."""

import logging
import os
import sys
import warnings
from types import SimpleNamespace

import pytest

from fastlift import cli
from fastlift.errors import FastliftWarning
from fastlift.system.library_output import native_output_shut

Streams = pytest.CaptureFixture[str]


def noisy(arguments: list[str]) -> int:
    """A command whose libraries warn, one of them past any filter."""
    warnings.simplefilter("always")
    warnings.warn("decoding is deprecated since 0.29", FutureWarning, stacklevel=1)
    warnings.warn("use something else", DeprecationWarning, stacklevel=1)
    warnings.warn("the backbone is random", FastliftWarning, stacklevel=1)
    return 0


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(run=noisy))


def test_ours_alone(capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", [])
    shows = warnings.showwarning
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().err == "fastlift: the backbone is random\n"
    assert warnings.showwarning is shows, "only while the command runs"


def test_what_the_user_asks_for_is_shown(capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with pytest.warns() as shown:
        assert cli.main(["doctor"]) == 0
    assert {entry.category for entry in shown} == {FutureWarning, DeprecationWarning, FastliftWarning}


def test_remarks_that_libraries_log_stay_away(capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    def remark(arguments: list[str]) -> int:
        logging.getLogger("open_clip").warning("QuickGELU mismatch")
        logging.warning("No pretrained configuration")
        logging.getLogger("open_clip").error("this matters")
        return 0

    root = logging.getLogger()
    monkeypatch.setattr(sys, "warnoptions", [])
    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(run=remark))
    monkeypatch.setattr(root, "handlers", [])  # pytest's own
    level = root.level
    try:
        assert cli.main(["doctor"]) == 0
    finally:
        root.setLevel(level)
    assert capsys.readouterr().err == "open_clip: this matters\n"


def test_native_code_has_no_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    """gloo of torch 2.9 tells there how many processes it has connected, before the JSON that a program reads."""
    print("before")
    with native_output_shut(1):
        os.write(1, b"[Gloo] Rank 0 is connected\n")
    print("after")
    assert capfd.readouterr().out == "before\nafter\n"
