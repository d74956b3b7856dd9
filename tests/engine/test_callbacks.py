"""Callbacks of users beside a training: what they are told, and that they change nothing."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from engine.test_processes import fastlift as run_command
from fixtures import Files
from ranks import command
from run_files import same_state
from several import Group
from stopping import signal_in_step

import fastlift
from fastlift.config import Config, to_dict
from fastlift.errors import FastliftWarning
from fastlift.system.signals import Interrupted


class Noting(fastlift.Callback):
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.starts: list[Any] = []
        self.ends: list[Any] = []

    def on_start(self, run: Any) -> None:
        self.starts.append(run)

    def on_step(self, step: int, values: Any) -> None:
        self.events.append({"event": "step", "step": step, **values})

    def on_epoch(self, step: int, values: Any) -> None:
        self.events.append({"event": "epoch", "step": step, **values})

    def on_evaluation(self, step: int, values: Any) -> None:
        self.events.append({"event": "evaluation", "step": step, **values})

    def on_end(self, end: Any) -> None:
        self.ends.append(end)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_is_told_the_lines_of_the_log(settings: Config, tmp_path: Path) -> None:
    noting, settings = Noting(), settings.override(val_share=0.2, eval_every=1)
    run = fastlift.train(settings, output=tmp_path / "run", callbacks=[noting])
    assert noting.events == lines(run.folder)
    (start,), (end,) = noting.starts, noting.ends
    assert (start.folder, start.step, list(start.history)) == (run.folder, 0, [])
    assert start.run == json.loads((run.folder / "run.json").read_text())["run"]
    assert start.data == json.loads((run.folder / "data.json").read_text())
    assert json.loads(json.dumps(start.config)) == json.loads((run.folder / "config.json").read_text())
    assert (end.status, end.error) == ("finished", None)
    assert end.results == json.loads((run.folder / "results.json").read_text())


def test_a_stopped_run_tells_its_end_and_goes_on(settings: Config, tmp_path: Path) -> None:
    first, second = Noting(), Noting()

    with pytest.raises(Interrupted) as caught, signal_in_step(6, signal.SIGTERM):
        fastlift.train(settings, output=tmp_path / "run", callbacks=[first])
    assert [(end.status, end.error, end.results) for end in first.ends] == [("interrupted", caught.value, None)]
    fastlift.train(settings, output=tmp_path / "run", resume=True, callbacks=[second])
    (start,) = second.starts
    assert start.run == first.starts[0].run
    assert start.step == 6
    assert list(start.history) == first.events
    assert [*start.history, *second.events] == lines(tmp_path / "run")
    third = Noting()
    fastlift.train(settings, output=tmp_path / "run", resume=True, callbacks=[third])
    assert not third.starts, "a run that has ended trains nothing"
    assert not third.ends


def test_an_error_in_one_does_not_end_the_run(settings: Config, tmp_path: Path) -> None:
    """And changes nothing of it."""

    class Broken(fastlift.Callback):
        def on_step(self, step: int, values: Any) -> None:
            raise ConnectionError("the pager is down")

    plain = fastlift.train(settings, output=tmp_path / "plain")
    with pytest.warns(FastliftWarning, match="callback Broken failed .* ConnectionError: the pager is down"):
        run = fastlift.train(settings, output=tmp_path / "run", callbacks=[Broken()])
    same_state(plain.folder, run.folder, "epoch-003")


def test_a_run_that_trains_nothing_tells_its_test(tiny_clip: Files, settings: Config, tmp_path: Path) -> None:
    noting = Noting()
    config = fastlift.recipes.zero_shot(**{name: to_dict(settings)["data"][name] for name in (
        "dataset", "data_root", "train_list", "test_list", "class_names"
    )}, model=settings.model.model, pretrained=settings.model.pretrained, device="cpu", amp="fp32")  # fmt: skip
    fastlift.train(config, output=tmp_path / "run", callbacks=[noting])
    assert [event["split"] for event in noting.events] == ["test"]
    assert [end.status for end in noting.ends] == ["finished"]


def test_of_several_processes_the_first_logs(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    followed = ["--log", "csv", "--val-share", "0.2", "--eval-every", "1"]
    outcomes = Group(tmp_path / "ranks", 2, run_command, (command(tiny_clip, tiny_data, run, *followed),)).join()
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].err + outcomes[1].err
    table, told = list(csv.reader((run / "metrics.csv").open())), lines(run)
    assert {key for line in told for key in line} == set(table[0]), (
        "all that is told has a column, and no other is there"
    )
    assert table[1:] == [["" if line.get(key) is None else str(line[key]) for key in table[0]] for line in told]
