"""Several seeds in one command: ordinary runs, what they say together, and going on after any end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
from fixtures import Files, Told
from run_files import same_state
from several import Group, together

import fastlift
from fastlift import cli
from fastlift.cli import main
from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.reporting import html
from fastlift.runs import seeds as seeds_of
from fastlift.runs.claims import InUse, claimed
from fastlift.runs.folder import RunFolder
from fastlift.runs.seeds import Plan, read_plan
from fastlift.training.step import Learner


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plots take longer than these runs; the runs that it shows are told instead."""
    monkeypatch.setattr(html, "render_report", lambda found, **_: " ".join(run.name for run in found))


@pytest.fixture
def small(settings: Config) -> Config:
    return settings.override(epochs=1, batch_size=19)  # two steps


class Steps:
    """Counts the steps; before each step of ``stops``, counted from the last stop, this process gets a signal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *stops: int) -> None:
        self.taken, self.since, self._stops, plain = 0, 0, list(stops), Learner.step

        def counted(learner: Learner, *given: Any, **named: Any) -> bool:
            self.taken, self.since = self.taken + 1, self.since + 1
            if self._stops and self.since == self._stops[0]:
                self._stops.pop(0)
                self.since = 0
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(learner, *given, **named)

        monkeypatch.setattr(Learner, "step", counted)


def _run_of(folder: Path, seed: int) -> str:
    identity = RunFolder(folder / f"seed-{seed}").identity()
    assert identity is not None
    return identity.run


def test_each_run_is_an_ordinary_one_and_the_table_is_of_all(small: Config, tmp_path: Path) -> None:
    found = fastlift.train_seeds(small.override(seed=4), 3, output=tmp_path / "all")
    values = []
    for seed in (4, 5, 6):
        alone = fastlift.train(small.override(seed=seed), output=tmp_path / f"alone-{seed}")
        assert found.runs[seed].metrics == alone.metrics
        same_state(tmp_path / "all" / f"seed-{seed}", tmp_path / f"alone-{seed}", "epoch-001")
        values.append(alone.metrics.log_loss)
    loss = found.figures["log_loss"]
    assert loss.values == tuple(values)
    assert (loss.mean, loss.sd) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert (loss.least, loss.largest) == (min(values), max(values))
    stored = json.loads((tmp_path / "all" / "seeds.json").read_text())
    assert stored["seeds"] == [4, 5, 6]
    assert stored["figures"]["log_loss"]["mean"] == loss.mean
    assert stored["runs"]["5"]["log_loss"] == values[1]
    assert (tmp_path / "all" / "report.html").read_text() == "seed-4 seed-5 seed-6"
    assert found.runs[5].model.class_names == found.runs[4].model.class_names  # read from the folder


def test_the_same_command_goes_on_where_it_was_ended(
    tiny_clip: Files,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Four steps an epoch, two epochs, two seeds; a checkpoint every third step."""
    flags = ranks.command(tiny_clip, tiny_data, tmp_path / "all", "--checkpoint-steps", "3", "--seeds", "2")
    steps = Steps(monkeypatch, 5, 6)
    assert main([*flags, "--resume", "auto"]) == 143
    told = capsys.readouterr().err
    assert told.splitlines()[-1].endswith(f"fastlift train --resume --output {tmp_path / 'all'}")
    assert main(["train", "--resume", "--output", str(tmp_path / "all")]) == 143  # in the second seed
    assert not (tmp_path / "all" / "report.html").exists()
    assert main([*flags, "--resume", "auto"]) == 0
    assert steps.taken == 16  # none twice
    assert "2 seeds" in capsys.readouterr().out
    assert main(["train", "--resume", "--output", str(tmp_path / "all"), "--json"]) == 0
    assert steps.taken == 16
    told_again = json.loads(capsys.readouterr().out)
    stored = read_plan(tmp_path / "all")
    assert stored is not None
    assert told_again["figures"] == json.loads(json.dumps(stored.figures))
    for seed in ("0", "1"):
        whole = ranks.command(tiny_clip, tiny_data, tmp_path / f"whole-{seed}", "--seed", seed)
        assert main(whole) == 0
        same_state(tmp_path / "all" / f"seed-{seed}", tmp_path / f"whole-{seed}", "epoch-002")


@pytest.mark.parametrize("written", [1, 2, 3])
def test_a_kill_at_any_writing_of_the_plan_loses_nothing(
    written: int, small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written before the first run, with the dtype that was measured, and after the last run."""
    small, steps = small.override(amp="auto"), Steps(monkeypatch)
    write, calls = Plan.write, [0]

    def killed(plan: Plan, folder: Path) -> None:
        calls[0] += 1
        if calls[0] == written:
            raise ZeroDivisionError
        write(plan, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "write", killed)
        with pytest.raises(ZeroDivisionError):
            fastlift.train_seeds(small, 2, output=tmp_path / "all")
    again = "auto" if written == 1 else True
    found = fastlift.train_seeds(small, 2, output=tmp_path / "all", resume=again)
    assert steps.taken == 4
    assert list(found.runs) == [0, 1]
    configs = [json.loads((tmp_path / "all" / f"seed-{seed}" / "config.json").read_text()) for seed in (0, 1)]
    assert configs[0]["run"].pop("amp") == configs[1]["run"].pop("amp") in ("fp32", "bf16")
    assert [config["run"].pop("seed") for config in configs] == [0, 1]
    assert configs[0] == configs[1]


def test_further_seeds_are_added(small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    fastlift.train_seeds(small, 2, output=tmp_path / "all")
    found = fastlift.train_seeds(small, 4, output=tmp_path / "all", resume=True)
    assert (list(found.runs), steps.taken) == ([0, 1, 2, 3], 8)
    assert len(found.figures["accuracy"].values) == 4
    assert (tmp_path / "all" / "report.html").read_text().endswith("seed-3")


def test_new_runs_take_the_place_of_old_ones_one_after_the_other(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut in the middle, the new one of the first seed stays, that of the second goes on, the third's old one goes."""
    folder, new = tmp_path / "all", small.override(lr=0.02, checkpoint_steps=1)
    fastlift.train_seeds(small, 3, output=folder)
    old = [_run_of(folder, seed) for seed in range(3)]
    steps = Steps(monkeypatch, 3)
    with pytest.raises(UserError, match="SIGTERM: stopped"):
        fastlift.train_seeds(new, 3, output=folder, overwrite=True)
    first, second = _run_of(folder, 0), _run_of(folder, 1)
    assert first != old[0]
    assert second != old[1]
    assert _run_of(folder, 2) == old[2]
    fastlift.train_seeds(new, 3, output=folder, resume=True)
    assert [_run_of(folder, 0), _run_of(folder, 1)] == [first, second]
    assert _run_of(folder, 2) != old[2]
    assert steps.taken == 6
    last = _run_of(folder, 2)
    fastlift.train_seeds(new, 3, output=folder, resume=True)  # nothing is old any more
    assert _run_of(folder, 2) == last
    with pytest.raises(UserError, match="holds seed-2 too, which these seeds would leave there"):
        fastlift.train_seeds(small, 2, output=folder, overwrite=True)


def test_what_cannot_be_done_is_refused(small: Config, tmp_path: Path) -> None:
    small = small.override(epochs=0)
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    fastlift.train(small, output=tmp_path / "one")
    fastlift.train_seeds(small, 2, output=tmp_path / "two")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"seeds": 1}, "expected 2 to 1,000 seeds"),
        ({"output": tmp_path / "file"}, "is a file"),
        ({"output": tmp_path / "other", "overwrite": True}, r"holds something else \(thesis.tex\)"),
        ({"output": tmp_path / "one", "overwrite": True}, "holds one run, not runs of several seeds"),
        ({"output": tmp_path / "one", "resume": "auto"}, "holds one run, not runs of several seeds"),
        ({"output": tmp_path / "two"}, "two exists; use --resume"),
        ({"output": tmp_path / "two", "resume": True, "overwrite": True}, "choose one of them"),
        ({"output": tmp_path / "two", "resume": True, "seeds": 3, "config": small.override(seed=1)}, "not of 1 to 3"),
        ({"output": tmp_path / "nothing", "resume": True}, "nothing to go on with"),
        ({"resume": True}, "resume needs a folder"),
        (
            {"output": tmp_path / "two", "resume": True, "config": small.override(lr=0.1)},
            r"seed-0 cannot be resumed with other settings \(lr was 0.05, now 0.1\)",
        ),
    ]
    for given, message in refused:
        with pytest.raises(UserError, match=message):
            fastlift.train_seeds(**{"config": small, "seeds": 2, **given})
    assert os.listdir(tmp_path / "other") == ["thesis.tex"]
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(UserError, match="it holds runs of several seeds: name one of them"):
        fastlift.evaluate_run(tmp_path / "two")


def test_one_process_at_a_time(small: Config, tmp_path: Path) -> None:
    small = small.override(epochs=0)
    fastlift.train_seeds(small, 2, output=tmp_path / "all")
    with claimed(tmp_path / "all", Told().say), pytest.raises(InUse, match="is in use"):
        fastlift.train_seeds(small, 2, output=tmp_path / "all", resume=True)


def test_a_damaged_plan_is_told_with_the_way_on(
    tiny_clip: Files,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ranks.command(tiny_clip, tiny_data, tmp_path / "all", "--epochs", "1", "--seeds", "2")
    steps = Steps(monkeypatch)
    assert main(flags) == 0
    (tmp_path / "all" / "seeds.json").write_text('{"seeds": [0, "one"]}')
    assert main(["train", "--resume", "--output", str(tmp_path / "all")]) == 2
    assert "delete it and repeat the command with --seeds and --resume" in capsys.readouterr().err
    (tmp_path / "all" / "seeds.json").unlink()
    assert main([*flags, "--resume"]) == 0
    assert steps.taken == 8


def test_the_report_of_the_folder_shows_its_runs(
    small: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small.override(epochs=0)
    fastlift.train_seeds(small, 2, output=tmp_path / "all")
    fastlift.train(small, output=tmp_path / "alone")
    page = tmp_path / "all" / "report.html"
    page.unlink()
    assert main(["report", str(tmp_path / "all")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
    assert page.read_text() == "seed-0 seed-1"
    monkeypatch.chdir(tmp_path)
    assert main(["report", "all", "alone"]) == 0
    assert (tmp_path / "report.html").read_text() == "seed-0 seed-1 alone"
    seeds_of.Plan((0, 1), {}).write(tmp_path)
    assert main(["report", str(tmp_path)]) == 2
    assert "none of its runs has begun yet" in capsys.readouterr().err


def test_runs_in_stages_are_runs_too(small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LT-Soups under several seeds: stages of one and two steps, then two more, for each; cut in the second stage of the second seed."""
    config, folder = small.override(soup_factors=(0, 1), train_only="classifier"), tmp_path / "all"
    whole = fastlift.train(config.override(seed=1), output=tmp_path / "whole")
    steps = Steps(monkeypatch, 7)
    with pytest.raises(UserError, match=rf"go on with: fastlift train --resume --output {folder}$"):
        fastlift.train_seeds(config, 2, output=folder)
    assert (folder / "seed-1" / "stages" / "f1").is_dir()
    assert not (folder / "seed-1" / "results.json").exists()
    found = fastlift.train_seeds(config, 2, output=folder, resume=True)
    assert found.runs[1].metrics == whole.metrics
    assert steps.taken == 10


def _command(arguments: list[str], stop: int) -> int:
    """The command in one of several processes, without pages; rank 1 gets a signal before a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "render_report", lambda *_, **__: "")
        if stop and os.environ["RANK"] == "1":
            Steps(patch, stop)
        return cli.main(arguments)


def test_several_processes_walk_over_the_seeds_together(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    flags = ranks.command(tiny_clip, tiny_data, tmp_path / "all", "--epochs", "1", "--seeds", "2", "--resume", "auto")
    assert together(tmp_path / "cut", 2, _command, flags, 6) == [143, 143]
    stopped = Group(tmp_path / "again", 2, _command, [flags, 0]).join()
    assert [outcome.value for outcome in stopped] == [0, 0]
    assert "2 seeds" in stopped[0].out
    assert stopped[1].out == ""
    alone = ranks.command(tiny_clip, tiny_data, tmp_path / "alone", "--epochs", "1", "--seed", "1")
    assert together(tmp_path / "one", 2, _command, alone, 0) == [0, 0]
    same_state(tmp_path / "all" / "seed-1", tmp_path / "alone", "epoch-001")
