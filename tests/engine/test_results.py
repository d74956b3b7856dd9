"""A run ends once, wherever a kill or a full disk comes between its results and its page."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import kills, refuses

from fastlift.config import Config, to_dict
from fastlift.engine.results import complete, end
from fastlift.evaluation.accumulator import ClassificationAccumulator
from fastlift.runs import folder as runs
from fastlift.runs.claims import claimed
from fastlift.runs.events import keep_events
from fastlift.runs.metrics_log import MetricsLog
from fastlift.system.files import read_json, write_json, write_text
from fastlift.system.progress import Quiet

STEPS = [json.dumps({"event": "step", "step": step, "epoch": 0, "loss": 1.0}) for step in (1, 2, 3)]


@pytest.fixture
def results() -> dict[str, Any]:
    accumulator = ClassificationAccumulator(2)
    accumulator.update(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    metrics = accumulator.compute([30, 3]).to_dict()
    data = {"class_names": ["a", "b"], "class_counts": [30, 3]}
    return {"epochs": 1, "steps": 3, "data": data, "metrics": metrics, "evaluations": {"center": metrics}}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], runs.RunFolder]:
    """A function that makes a run that is trained and not evaluated yet; pages are a word, since drawing them takes a second."""
    number = 0

    def make() -> runs.RunFolder:
        nonlocal number
        number += 1
        run = runs.RunFolder(tmp_path / f"run{number}")
        write_json(run.config, to_dict(Config()))
        run.metrics.write_text("".join(f"{line}\n" for line in STEPS))
        return run

    monkeypatch.setattr(
        "fastlift.reporting.html.write_report", lambda folders, output: write_text(output, f"page of {len(folders)}")
    )
    return make


def whole(run: runs.RunFolder) -> None:
    """The run has ended, and has each of its files and lines once."""
    assert runs.state(run.path) is runs.State.ENDED
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [(line["event"], line["step"]) for line in lines] == [("step", i) for i in (1, 2, 3)] + [("evaluation", 3)]
    assert lines[-1]["accuracy"] == 100.0
    assert lines[-1]["epoch"] == 0
    assert run.class_names() == ("a", "b")
    assert run.report.read_text() == "page of 1"
    hidden = [path.name for path in run.path.rglob(".*")]
    assert hidden in ([], [".lock"])


def test_a_kill_while_a_run_ends(
    trained: Callable[[], runs.RunFolder], results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming evaluates it again where there are no results, and completes it where there are."""
    run, seen = runs.RunFolder(Path()), set()

    def fresh() -> runs.RunFolder:
        nonlocal run
        run = trained()
        return run

    for killed in kills(monkeypatch, fresh, lambda: end(run, results, Quiet())):
        seen.add(runs.state(killed.path))
        with claimed(killed.path, print):
            if killed.has_ended():
                assert complete(killed, Quiet()) == results
            else:
                end(killed, results, Quiet())
        whole(killed)
    assert {runs.State.BEGUN, runs.State.EVALUATED} <= seen
    whole(run)


def test_completing_is_done_once(trained: Callable[[], runs.RunFolder], results: dict[str, Any]) -> None:
    run = trained()
    end(run, results, Quiet())
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    complete(run, Quiet())
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_run_that_is_graded_again_keeps_one_line(
    trained: Callable[[], runs.RunFolder], results: dict[str, Any]
) -> None:
    """Somebody deleted the results: those of the new evaluation count."""
    run = trained()
    end(run, results, Quiet())
    run.results.unlink()
    worse = {**results, "metrics": {**results["metrics"], "accuracy": 50.0}}
    end(run, worse, Quiet())
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [line["accuracy"] for line in lines if line["event"] == "evaluation"] == [50.0]


@pytest.mark.parametrize("lost", ["data.json", "report.html", "metrics.jsonl"])
@pytest.mark.parametrize("damage", ["deleted", "not JSON"])
def test_an_ended_run_gets_its_files_back(
    lost: str, damage: str, trained: Callable[[], runs.RunFolder], results: dict[str, Any]
) -> None:
    run = trained()
    end(run, results, Quiet())
    if damage == "deleted":
        (run.path / lost).unlink()
    elif lost != "report.html":
        (run.path / lost).write_bytes(b"\xff\xfe\0{[")
    complete(run, Quiet())
    assert read_json(run.data) == results["data"]
    assert run.report.is_file()
    assert "evaluation" in run.metrics.read_text(errors="replace")


@pytest.mark.parametrize("call", ["replace", "write"])
def test_a_full_disk_at_the_end(
    call: str, trained: Callable[[], runs.RunFolder], results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuses(errno.ENOSPC))
        with pytest.raises(OSError, match="No space") as caught:
            end(run, results, Quiet())
    assert caught.value.filename in (str(run.results), str(run.metrics))
    assert run.metrics.read_text().splitlines() == STEPS
    end(run, results, Quiet())
    whole(run)


def test_a_kill_while_the_log_is_cut_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies before the checkpoint is history, and stays."""
    log = tmp_path / "metrics.jsonl"
    text = "".join(f"{line}\n" for line in STEPS)

    def fresh() -> None:
        log.write_text(text + '{"event": "st')

    for _ in kills(monkeypatch, fresh, lambda: keep_events(log, lambda event: event["step"] <= 2)):
        assert log.read_text().startswith("".join(f"{line}\n" for line in STEPS[:2]))
    assert log.read_text().splitlines() == STEPS[:2]


@pytest.mark.parametrize("loss", [1e20, float(torch.finfo(torch.float32).max)])
def test_a_training_that_diverges_keeps_its_history(
    loss: float, trained: Callable[[], runs.RunFolder], results: dict[str, Any]
) -> None:
    """A loss may be as large as fp32 holds: its lines are no damage."""
    run = trained()
    run.metrics.write_text("".join(line.replace('"loss": 1.0', f'"loss": {loss}') + "\n" for line in STEPS))
    before = run.metrics.read_text()
    end(run, results | {"metrics": {**results["metrics"], "log_loss": loss}}, Quiet())
    assert run.metrics.read_text().startswith(before)
    assert runs.state(run.path) is runs.State.ENDED


def test_what_settings_may_be_can_be_read_back(trained: Callable[[], runs.RunFolder], results: dict[str, Any]) -> None:
    """Results that their reader refused would be made again for ever."""
    run = trained()
    boundaries = list(Config().override(group_boundaries=(2, 2**63 - 1)).data.group_boundaries)
    data = results["data"] | {"group_boundaries": boundaries}
    end(run, results | {"data": data, "metrics": results["metrics"] | {"group_boundaries": boundaries}}, Quiet())
    assert runs.state(run.path) is runs.State.ENDED
    assert read_json(run.data) == data


def test_a_log_with_odd_bytes_goes_on(tmp_path: Path) -> None:
    """A byte that is no UTF-8 costs nothing but its character; lines that are no events go."""
    run = runs.RunFolder(tmp_path)
    odd = b'{"event": "step", "step": 1, "note": "\xff"}'
    deep = b"[" * 100_000
    run.metrics.write_bytes(b"\n".join([odd, b"[1]", b'{"step": "x"}', deep, STEPS[1].encode(), b"\xff\xfe", b'{"ev']))
    with MetricsLog(run, 2) as log:
        log.write("step", 3, {"loss": 0.5})
    lines = run.metrics.read_bytes().splitlines()
    assert lines[:2] == [odd, STEPS[1].encode()]
    assert [json.loads(line)["step"] for line in lines[1:]] == [2, 3]
    assert len(lines) == 3
