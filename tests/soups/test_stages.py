"""A run in the stages of LT-Soups: its trainings, their average, and what a kill leaves of it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import CLASS_COUNTS, Files, Told, tiny_recipe
from several import together
from stopping import signal_in_step

import fastlift
from fastlift.cli import main
from fastlift.config import Config, load
from fastlift.engine import train as training
from fastlift.errors import UserError
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.soups import stages
from fastlift.soups.stages import at_factor
from fastlift.system.signals import Interrupted
from tests.soups.test_soup import same

STAGES = ("start", "f0", "f1", "soup")


@pytest.fixture
def config(tiny_clip: Files, tiny_data: Path) -> Config:
    lift = tiny_recipe(tiny_clip, tiny_data, epochs=2, batch_size=16, eval_batch=24, amp="fp32", threads=1)
    lt = fastlift.recipes.lt_soups(tuner="adaptformer", lr=0.05)
    chosen = ("optimizer", "lr", "weight_decay", "lr_schedule", "warmup_epochs", "min_lr_ratio", "ema", "train_only")
    return replace(lift, recipe="lt_soups").merged(
        **{name: lt.flat()[name] for name in chosen}, soup_factors=(0, 1), soup_keep=0.7
    )


def last_of(folder: Path) -> dict[str, torch.Tensor]:
    found = runs.RunFolder(folder).last_checkpoint()
    assert found is not None
    return checkpoints.read(found).weights()


def test_the_stages_by_hand(config: Config, tmp_path: Path) -> None:
    told = Told()
    run = fastlift.train(config, output=tmp_path / "run", ui=told)
    folders = {name: run.folder / "stages" / name for name in STAGES}
    counts = {name: json.loads((folder / "data.json").read_text()) for name, folder in folders.items()}
    n = min(CLASS_COUNTS)
    for factor in (0, 1):  # at most n 2^f of each class, in a draw of its own
        assert counts[f"f{factor}"]["class_counts"] == [min(count, n * 2**factor) for count in CLASS_COUNTS]
        assert counts[f"f{factor}"]["group_counts"] == list(CLASS_COUNTS)
        stage = load(folders[f"f{factor}"] / "config.json")
        assert (stage.data.max_per_class, stage.data.subset_seed) == (n * 2**factor, factor)
        assert (stage.training.soup_factors, stage.training.train_only, stage.training.epochs) == ((), None, 2)
    assert counts["start"]["class_counts"] == counts["soup"]["class_counts"] == list(CLASS_COUNTS)
    start, first, second = (last_of(folders[name]) for name in ("start", "f0", "f1"))
    for name, tensor in last_of(folders["soup"]).items():  # new = 0.7 average + 0.3 next, from the start on
        mean = start[name].double()
        for state in (first, second):
            mean = 0.7 * mean + (1 - 0.7) * state[name].double()
        assert torch.equal(tensor, mean.float())
    ended, soup = last_of(run.folder), last_of(folders["soup"])
    assert same(
        {k: v for k, v in ended.items() if k.startswith("tuner.")},
        {k: v for k, v in soup.items() if k.startswith("tuner.")},
    )
    assert not torch.equal(ended["head.weight"], soup["head.weight"])
    assert same(checkpoints.read(run.folder / "checkpoints" / "epoch-000.safetensors").trained, soup)
    parts = run.results["soup"]["ingredients"]
    assert [one["name"] for one in parts] == ["start", "f0", "f1"]
    assert [one["weight"] for one in parts] == pytest.approx([0.49, 0.21, 0.3])
    assert run.results["epochs"] == 2
    assert "stage 2 of 2 (factor 1): at most 4 images of each class" in told.text
    assert "What run is made of" in (run.folder / "report.html").read_text()
    assert torch.equal(fastlift.load_run(run.folder).trained()["head.weight"], ended["head.weight"])


def test_each_stage_begins_at_the_start(config: Config, tmp_path: Path) -> None:
    """At a learning rate of 0 all of them stay there, so that the average is the start."""
    run = fastlift.train(config.merged(lr=0.0), output=tmp_path / "run", ui=None)
    start = last_of(run.folder / "stages" / "start")
    for name in ("stages/f0", "stages/f1", "stages/soup", "."):
        assert same(last_of(run.folder / name), start)


def in_step(number: int) -> Callable[[pytest.MonkeyPatch], AbstractContextManager[Any]]:
    return lambda _: signal_in_step(number)


def killed_at(module: Any, name: str, call: int) -> Callable[[pytest.MonkeyPatch], AbstractContextManager[Any]]:
    """A kill in place of the call of that number (from 1)."""

    def plan(patch: pytest.MonkeyPatch) -> AbstractContextManager[Any]:
        real, calls = getattr(module, name), [0]

        def cut(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        patch.setattr(module, name, cut)
        return patch.context()

    return plan


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(killed_at(stages, "load_data", 1), id="before the stages"),
        pytest.param(killed_at(training, "_evaluate", 1), id="evaluating the start"),
        pytest.param(in_step(1), id="in the first training"),
        pytest.param(killed_at(training, "_evaluate", 2), id="evaluating the first training"),
        pytest.param(killed_at(training, "ready_folder", 3), id="before the second training"),
        pytest.param(killed_at(stages, "gather", 1), id="before the average"),
        pytest.param(killed_at(training, "describe_data", 4), id="before the average is kept"),
        pytest.param(killed_at(training, "_evaluate", 4), id="evaluating the average"),
        pytest.param(killed_at(training, "ready_folder", 5), id="before the last stage"),
        pytest.param(killed_at(training, "_evaluate", 5), id="evaluating the run"),
    ],
)
def test_a_kill_loses_nothing(
    kill: Callable[[pytest.MonkeyPatch], AbstractContextManager[Any]],
    config: Config,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch, kill(patch), pytest.raises((KeyboardInterrupt, Interrupted)):
        fastlift.train(config, output=path, resume="auto", ui=None)
    before = {
        name: (path / "stages" / name / "run.json").read_bytes()
        for name in STAGES
        if (path / "stages" / name / "results.json").is_file()
    }
    run = fastlift.train(config, output=path, resume="auto", ui=None)
    for name, identity in before.items():  # what had ended was not made again
        assert (path / "stages" / name / "run.json").read_bytes() == identity
    for name in (*(f"stages/{name}" for name in STAGES), "."):
        assert same(last_of(path / name), last_of(whole / name)), name
    results = json.loads((whole / "results.json").read_text())
    assert run.results["metrics"] == results["metrics"]


@pytest.fixture
def whole(config: Config, tmp_path: Path) -> Path:
    return fastlift.train(config, output=tmp_path / "whole", ui=None).folder


def test_in_the_last_stage_it_goes_on_without_the_others(config: Config, tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"train --resume --output .*run$"), signal_in_step(9):
        fastlift.train(config, output=path, ui=None)
    assert runs.state(path) is runs.State.TRAINED
    shutil.rmtree(path / "stages")
    fastlift.train(config, output=path, resume=True, ui=None)
    assert same(last_of(path), last_of(whole))
    again, told = fastlift.train(config, output=path, resume=True, ui=(told := Told())), told
    assert "has ended already" in told.text
    assert again.results["soup"]["how"] == "one after another"


def test_messages_of_a_stage_name_the_run(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(Interrupted) as stopped, signal_in_step(1):
        fastlift.train(config, output=path, ui=None)
    assert str(stopped.value).endswith(f"go on with: fastlift train --resume --output {path}")
    stage = path / "stages" / "f0"
    assert runs.way_on(stage) == f"it goes on, and the stages after it, with: fastlift train --resume --output {path}"
    with pytest.raises(UserError, match=r"run has no data\.json"):
        fastlift.load_run(path)


def test_the_same_command_again(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: Path
) -> None:
    """By flags, with nothing but the folder."""
    path = tmp_path / "run"
    with pytest.raises(Interrupted), signal_in_step(2):
        fastlift.train(config, output=path, ui=None)
    assert main(["train", "--resume", "--output", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == json.loads((whole / "results.json").read_text())["metrics"]
    with pytest.raises(UserError, match=r"soup_keep was 0\.7, now 0\.5"):
        fastlift.train(config.merged(soup_keep=0.5), output=path, resume=True, ui=None)
    assert main(["train", "--output", str(path)]) == 2
    assert "exists; use --resume" in capsys.readouterr().err


def test_overwrite_makes_all_anew(config: Config, tmp_path: Path) -> None:
    path = fastlift.train(config, output=tmp_path / "run", ui=None).folder
    before = [json.loads((path / name / "run.json").read_text())["run"] for name in ("stages/f0", ".")]
    fastlift.train(config, output=path, overwrite=True, ui=None)
    after = [json.loads((path / name / "run.json").read_text())["run"] for name in ("stages/f0", ".")]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_draws_and_bounds_of_the_factors() -> None:
    config = Config().merged(seed=3)
    chosen = [at_factor(config, factor, 5) for factor in range(7)]
    assert [one.data.max_per_class for one in chosen] == [5, 10, 20, 40, 80, 160, 320]
    assert (
        len({one.data.subset_seed for one in chosen} | {one.data.subset_seed for one in [at_factor(Config(), 0, 5)]})
        == 8
    )
    assert at_factor(config.merged(max_per_class=30), 4, 5).data.max_per_class == 30
    assert at_factor(config.merged(seed=2**63 - 1), 4, 5).data.subset_seed >= 0


def test_the_recipe() -> None:
    full, light = fastlift.recipes.lt_soups(), fastlift.recipes.lt_soups(tuner="adaptformer")
    assert (full.model.tuner, full.training.lr, light.training.lr) == (("full",), 3e-5, 1e-3)
    assert full.training.soup_factors == tuple(range(7))
    assert (full.training.optimizer, full.training.weight_decay, full.training.epochs) == ("adamw", 0.01, 10)
    assert (full.training.soup_keep, full.training.train_only, full.training.ema) == (0.7, "classifier", 0.99)
    assert fastlift.recipes.lt_soups(lr=1e-4, tuner="lora").training.lr == 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"soup_factors": (0, 0)}, "soup_factors: 0 is there twice; give each factor once"),
        ({"soup_factors": (-1,)}, "soup_factors: expected a whole number from 0 to 40, got -1"),
        ({"soup_keep": 1.0}, r"soup_keep: expected a number in \[0, 1\), got 1.0"),
    ],
)
def test_bad_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Config().merged(**changes)


def test_what_goes_with_nothing_else(config: Config, whole: Path, tmp_path: Path) -> None:
    for call, words in (
        (
            lambda: fastlift.train(config.merged(init_from=str(whole)), output=tmp_path / "x", ui=None),
            "--init-from and --soup-factors",
        ),
        (
            lambda: fastlift.train(config, output=tmp_path / "x", start={"tuner": {}, "head": {}}, ui=None),
            "a given start and --soup-factors",
        ),
        (
            lambda: fastlift.train(config, output=tmp_path / "x", resume=True, overwrite=True, ui=None),
            "choose one of them",
        ),
        (lambda: fastlift.train(config, resume="auto", ui=None), "resume auto needs a folder: --output"),
        (lambda: fastlift.train(config, output=tmp_path / "x", resume=True, ui=None), "is not a run folder"),
    ):
        with pytest.raises(UserError, match=words):
            call()
    assert not (tmp_path / "x" / "config.json").exists()


def test_a_data_set_from_python(config: Config, tiny_data: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    labels = np.repeat([0, 1], [20, 4])
    items = [(image, int(label)) for image, label in zip(pixels, labels, strict=True)]
    data = fastlift.data.from_dataset(items, test=items[::3], class_names=["red brick", "blue sky"])
    python = config.merged(dataset="shapes_lt", data_root=None, train_list=None, test_list=None, class_names=None)
    run = fastlift.train(python, dataset=data, output=tmp_path / "run", ui=None)
    counts = [
        json.loads((run.folder / "stages" / name / "data.json").read_text())["class_counts"] for name in ("f0", "f1")
    ]
    assert counts == [[4, 4], [8, 4]]
    assert run.results["data"]["class_counts"] == [20, 4]


def _with_a_slow_end(config: Config, folder: Path) -> None:
    """In one of several processes, the first of which takes long to write what ends a run."""
    end = training.end

    def later(*arguments: Any) -> None:
        time.sleep(1)
        end(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "0":
            patch.setattr(training, "end", later)
        fastlift.train(config, output=folder, ui=None)


def test_several_processes_wait_for_the_end_of_each_stage(config: Config, tmp_path: Path) -> None:
    alone = fastlift.train(config, output=tmp_path / "alone", ui=None)
    together(tmp_path / "said", 2, _with_a_slow_end, config, tmp_path / "two")
    theirs = last_of(tmp_path / "two")
    for name, mine in last_of(alone.folder).items():
        torch.testing.assert_close(theirs[name], mine, rtol=1e-4, atol=1e-4 * float(mine.abs().max()))
