"""Runs that start from what another run has learned."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.test_processes import fastlift as run_command
from fixtures import CLASS_NAMES, Files, Told
from ranks import command
from safetensors.torch import load_file
from several import Group
from stopping import signal_in_step

import fastlift
from fastlift.config import Config
from fastlift.system.signals import Interrupted


@pytest.fixture
def source(settings: Config, tmp_path: Path) -> Path:
    return fastlift.train(settings.override(epochs=2), output=tmp_path / "source").folder


def trained(folder: Path, name: str) -> dict[str, torch.Tensor]:
    state = load_file(folder / "checkpoints" / f"{name}.safetensors")
    return {key: tensor for key, tensor in state.items() if not key.startswith("momentum.")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(other[name], tensor) for name, tensor in one.items())


@pytest.mark.parametrize("init", ["text", "class_mean"])
def test_it_starts_where_the_other_ended(settings: Config, source: Path, tmp_path: Path, init: str) -> None:
    """At a learning rate of 0 it stays there; by a file it starts from that. The classifier's own init does not count."""
    still, told = settings.override(epochs=1, lr=0.0, init=init), Told()
    run = fastlift.train(still.override(init_from=source), output=tmp_path / "run", ui=told)
    assert same(trained(run.folder, "epoch-001"), trained(source, "epoch-002"))
    assert f"what trains starts from epoch-002 of {source}" in told.text
    file = source / "checkpoints" / "epoch-001.safetensors"
    run = fastlift.train(still.override(init_from=file), output=tmp_path / "by_file")
    assert same(trained(run.folder, "epoch-001"), trained(source, "epoch-001"))
    plain = fastlift.train(still, output=tmp_path / "plain")
    assert not same(trained(plain.folder, "epoch-001"), trained(source, "epoch-002"))


def test_it_goes_on_without_the_other(settings: Config, source: Path, tmp_path: Path) -> None:
    """Once it has a checkpoint of its own."""
    settings = settings.override(epochs=2, init_from=source)
    whole = fastlift.train(settings, output=tmp_path / "whole")

    with pytest.raises(Interrupted), signal_in_step(3):
        fastlift.train(settings, output=tmp_path / "cut")
    shutil.rmtree(source)
    run = fastlift.train(settings, output=tmp_path / "cut", resume=True)
    assert same(trained(run.folder, "epoch-002"), trained(whole.folder, "epoch-002"))
    with pytest.raises(fastlift.UserError, match="is not a run folder: there is no such folder"):
        fastlift.train(settings, output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tuner": "lora"}, r"source: the models differ: that run has tuner adaptformer, here lora$"),
        ({"rank": 3}, r"rank None, here 3$"),
        ({"classifier": "linear"}, r"classifier cosine, here linear$"),
    ],
)
def test_another_model_is_refused(
    settings: Config, source: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(fastlift.UserError, match=words):
        fastlift.train(settings.override(init_from=source, **change), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_classes_are_refused(settings: Config, source: Path, tmp_path: Path) -> None:
    swapped = tmp_path / "names.txt"
    names = [CLASS_NAMES[1], CLASS_NAMES[0], *CLASS_NAMES[2:]]
    swapped.write_text("".join(f"class{label} {name}\n" for label, name in enumerate(names)))
    with pytest.raises(
        fastlift.UserError,
        match=r"class 0 of that run is 'red brick', here .*in another order\): give a run of the same",
    ):
        fastlift.train(settings.override(init_from=source, class_names=swapped), output=tmp_path / "run")


def test_a_file_that_is_no_checkpoint(settings: Config, source: Path, tmp_path: Path) -> None:
    for file in (source / "config.json", source / "results.json"):
        with pytest.raises(fastlift.UserError, match=rf"{file}: no checkpoint of a run: give the run folder"):
            fastlift.train(settings.override(init_from=file), output=tmp_path / "run")


def test_it_is_another_run(settings: Config, source: Path, tmp_path: Path) -> None:
    """So it cannot be resumed as one that starts elsewhere."""
    settings = settings.override(epochs=1)
    run = fastlift.train(settings.override(init_from=source), output=tmp_path / "run").folder
    with pytest.raises(fastlift.UserError, match="init_from was"):
        fastlift.train(settings, output=run, resume=True)


def test_processes_start_from_it(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    """Each takes its rows where the classifier is split."""
    source, run = tmp_path / "source", tmp_path / "run"
    with pytest.raises(SystemExit, match="0"):
        run_command(command(tiny_clip, tiny_data, source))
    more = ("--init-from", str(source), "--shard-classifier")
    arguments = [word if word != "0.05" else "0.0" for word in command(tiny_clip, tiny_data, run, *more)]
    outcomes = Group(tmp_path / "ranks", 2, run_command, (arguments,)).join()
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].err + outcomes[1].err
    assert same(trained(run, "epoch-002"), trained(source, "epoch-002"))
