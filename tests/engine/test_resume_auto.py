"""``--resume auto``: one command, repeated until it ends with 0, is one run, whatever ended it in between."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import ranks
from fixtures import Files, Told
from run_files import same_state

import fastlift
from fastlift.cli import main
from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.reporting import html
from fastlift.runs.claims import InUse, claimed
from fastlift.training.step import Learner


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plots take longer than these runs, and no test here looks at them."""
    monkeypatch.setattr(html, "render_report", lambda *_, **__: "")


@pytest.fixture
def flags(tiny_clip: Files, tiny_data: Path) -> list[str]:
    """Two epochs of four steps, 38 images, with flags that are written in the run's config in another way (threads, paths)."""
    data, output = Path(os.path.relpath(tiny_data)), Path("named by each test")
    return ranks.command(tiny_clip, data, output, "--checkpoint-steps", "3")


class Counted:
    """The steps that were taken; a signal comes before the ``n``-th of a process, for each n of ``stops`` in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *stops: int) -> None:
        self.taken, self._stops, plain = 0, list(stops), Learner.step

        def counted(learner: Learner, *given: Any, **named: Any) -> bool:
            self.taken += 1
            if self._stops and self.taken == self._stops[0]:
                self._stops.pop(0)
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(learner, *given, **named)

        monkeypatch.setattr(Learner, "step", counted)

    def since(self) -> int:
        """How many since the last call."""
        taken, self.taken = self.taken, 0
        return taken


def test_the_same_command_starts_goes_on_and_ends(
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counted = Counted(monkeypatch, 2, 1, 3)
    command = [*flags, "--resume", "auto", "--output", str(tmp_path / "run")]
    found = [(main(command), counted.since()) for _ in range(6)]
    assert found == [(143, 2), (143, 1), (143, 3), (0, 2), (0, 0), (0, 0)]
    assert "has ended already: there is nothing to resume" in capsys.readouterr().err
    assert main([*flags, "--output", str(tmp_path / "whole")]) == 0
    same_state(tmp_path / "run", tmp_path / "whole", "epoch-002")


def test_a_config_file_and_another_model_beside_it_mean_the_same_every_time(
    flags: list[str], tiny_clip: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of ``--model`` are not the file's, on the first start and on every other."""
    assert main([*flags, "--epochs", "0", "--output", str(tmp_path / "first")]) == 0
    command = ["train", "--config", str(tmp_path / "first" / "config.json"), "--model", str(tiny_clip[0])]
    command += ["--epochs", "1", "--resume=auto", "--output", str(tmp_path / "run")]
    Counted(monkeypatch, 2)
    assert [main(command) for _ in range(3)] == [143, 0, 0]


def test_a_run_without_a_checkpoint_begins_again(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill in the first epoch."""
    told, run = Told(), tmp_path / "run"
    settings = settings.override(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", lambda *_, **__: (_ for _ in ()).throw(ZeroDivisionError))
        with pytest.raises(ZeroDivisionError):
            fastlift.train(settings, output=run, resume="auto", ui=told)
    assert "no checkpoint yet" not in told.text
    fastlift.train(settings, output=run, resume="auto", ui=told)
    assert "no checkpoint yet: starting from the beginning" in told.text
    fastlift.train(settings, output=tmp_path / "whole")
    same_state(run, tmp_path / "whole", "epoch-001")


def test_what_is_no_run_and_other_settings_are_refused(settings: Config, tmp_path: Path) -> None:
    settings = settings.override(epochs=0)
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"output": tmp_path / "file"}, "is a file"),
        ({"output": tmp_path / "other"}, "is not a run folder: it has no config.json; choose another"),
        ({"output": tmp_path / "run", "overwrite": True}, "choose one of them"),
        ({}, "resume auto needs a folder"),
    ]
    for given, message in refused:
        with pytest.raises(UserError, match=message):
            fastlift.train(settings, resume="auto", **given)
    assert not (tmp_path / "run").exists()
    assert os.listdir(tmp_path / "other") == ["thesis.tex"]
    fastlift.train(settings, output=tmp_path / "run", resume="auto")
    with pytest.raises(UserError, match=r"cannot be resumed with other settings \(lr was 0.05, now 0.1\)"):
        fastlift.train(settings.override(lr=0.1), output=tmp_path / "run", resume="auto")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "runs/some"], "invalid choice"),
        (["--resume=never"], "invalid choice"),
        (["--resume", "auto"], "--resume goes with --output FOLDER"),
    ],
)
def test_other_words_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_process_that_still_has_the_folder_is_waited_for(settings: Config, tmp_path: Path) -> None:
    """As where the machine of the last attempt takes its time to end; a plain ``--resume`` tells it at once."""
    run, settings = tmp_path / "run", settings.override(epochs=0)
    fastlift.train(settings, output=run)

    class Ends(Told):
        """The other process ends a moment after it is told that it is waited for."""

        def say(self, message: str) -> None:
            super().say(message)
            if "waiting up to 120 s for it to end" in message:
                threading.Timer(0.5, claim.__exit__).start()

    told = Ends()
    with claimed(run, told.say) as claim:
        with pytest.raises(InUse):
            fastlift.train(settings, output=run, resume=True)
        fastlift.train(settings, output=run, resume="auto", ui=told)
    assert told.text.count("waiting up to 120 s for it to end") == 1
    assert "has ended already" in told.text
