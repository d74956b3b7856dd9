"""Run folders read back: whole, unfinished, cut short, resumed, and not runs at all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fastlift.errors import UserError
from fastlift.reporting.record import read_run, read_runs

MakeRun = Callable[..., Path]  # the fixture of conftest.py


def test_finished_run(make_run: MakeRun) -> None:
    run = read_run(make_run())
    assert run.finished
    assert run.notes == ()
    assert [step["step"] for step in run.steps] == list(range(1, 101))
    assert len(run.epochs) == len(run.evaluations) == 4
    assert run.metrics()["accuracy"] == run.evaluations[-1]["accuracy"]
    assert set(run.named_evaluations()) == {"center", "fivecrop"}
    assert run.class_names()[3] == "striped red star 3"


def test_unfinished_run_falls_back_on_its_last_evaluation(make_run: MakeRun) -> None:
    run = read_run(make_run(finished=False))
    assert not run.finished
    assert "not ended" in run.notes[0]
    assert run.metrics()["step"] == 100
    assert len(run.data["class_counts"]) == 30


@pytest.mark.parametrize("cut", [1, 2, 7, 60])
def test_truncated_last_line(make_run: MakeRun, cut: int) -> None:
    run = read_run(make_run(finished=False, cut_bytes=cut))
    # Cutting only the line's end leaves it readable.
    assert len(run.evaluations) == (4 if cut == 1 else 3)
    assert any("last line" in note for note in run.notes) == (cut > 1)


def test_broken_line_in_the_middle_is_told(make_run: MakeRun) -> None:
    folder = make_run()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[4] = lines[4][:20] + lines[5]
    lines[7] = "[1, 2]"
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(folder)
    assert len(run.steps) == 98
    assert run.notes == ("2 lines of metrics.jsonl could not be read and were left out: 5, 8.",)


def test_later_line_of_a_step_counts(make_run: MakeRun) -> None:
    folder = make_run()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "step", "step": 10, "epoch": 0, "loss": 7.5}) + "\n")
    run = read_run(folder)
    assert len(run.steps) == 100
    assert run.steps[9]["loss"] == 7.5


def test_run_without_metrics_or_data_files(make_run: MakeRun) -> None:
    folder = make_run(finished=False)
    (folder / "metrics.jsonl").unlink()
    (folder / "data.json").unlink()
    run = read_run(folder)
    assert run.steps == ()
    assert run.data == {}
    assert run.metrics() == {}
    assert any("no metrics.jsonl" in note for note in run.notes)


def test_not_a_run(tmp_path: Path, make_run: MakeRun) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no config\.json"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="no run folder was given"):
        read_runs([])
    folder = make_run()
    with pytest.raises(UserError, match="given twice"):
        read_runs([folder, folder / ".." / folder.name])
    (folder / "results.json").write_text('{"metrics": ')
    with pytest.raises(UserError, match=r"results\.json is not JSON.*--resume"):
        read_run(folder)
    (folder / "results.json").write_text("[]")
    with pytest.raises(UserError, match="got list"):
        read_run(folder)


def test_runs_of_one_name_are_told_apart(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a/lift"), make_run("b/lift")])
    assert [run.name for run in runs] == ["a/lift", "b/lift"]
