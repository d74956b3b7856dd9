"""Runs that start from what another run has learned."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
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
        ({"rank": 3}, r"rank 1, here 3$"),
        ({"classifier": "linear"}, r"classifier cosine, here linear$"),
    ],
)
def test_another_model_is_refused(
    settings: Config, source: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(fastlift.UserError, match=words):
        fastlift.train(settings.override(init_from=source, **change), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def renamed(folder: Path, names: Sequence[str]) -> Path:
    """A class-name file of the set with other names."""
    file = folder / "names.txt"
    file.write_text("".join(f"class{label} {name}\n" for label, name in enumerate(names)))
    return file


@pytest.mark.parametrize("init", ["text", "class_mean"])
def test_of_other_classes_those_of_the_same_name_are_taken(
    settings: Config, source: Path, tmp_path: Path, init: str
) -> None:
    """In whatever order; the others start as without it, and the tuner is the other run's."""
    names = ["a lamp", CLASS_NAMES[0], "a door", CLASS_NAMES[5], CLASS_NAMES[1], "a boat"]
    file, told = renamed(tmp_path, names), Told()
    still = settings.override(epochs=1, lr=0.0, class_names=file, init=init)
    warm = fastlift.train(still.override(init_from=source), output=tmp_path / "warm", ui=told).folder
    plain = fastlift.train(still, output=tmp_path / "plain").folder
    assert (
        f"what trains starts from epoch-002 of {source}: its tuner, and its classifier's rows of 3 of these 6 classes, by their "
        f"names (red brick, black coal, green_leaf); the others start anew (init {init})"
    ) in told.text
    begun, theirs, anew = trained(warm, "epoch-001"), trained(source, "epoch-002"), trained(plain, "epoch-001")
    for row, place in enumerate([None, 0, None, 5, 1, None]):
        expected = anew["head.weight"][row] if place is None else theirs["head.weight"][place]
        assert torch.equal(begun["head.weight"][row], expected)
    tuner = {name for name in theirs if name.startswith("tuner.")}
    assert tuner
    assert all(torch.equal(begun[name], theirs[name]) for name in tuner)
    assert not all(torch.equal(begun[name], anew[name]) for name in tuner)


def test_fewer_classes_and_none_in_common(
    settings: Config, source: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, counts = Told(), settings.override(epochs=1, lr=0.0, init_from=source)
    other = counts.override(class_names=renamed(tmp_path, [f"thing {label}" for label in range(6)]))
    run = fastlift.train(other, output=tmp_path / "none", ui=told).folder
    assert "its tuner, and its classifier's rows of 0 of these 6 classes, by their names; the others" in told.text
    assert not torch.equal(trained(run, "epoch-001")["head.weight"], trained(source, "epoch-002")["head.weight"])
    bare = fastlift.train(settings.override(epochs=1, tuner=("none",)), output=tmp_path / "bare").folder
    with pytest.raises(
        fastlift.UserError, match="that run has no tuner, and no class of the same name: nothing to take"
    ):
        fastlift.train(other.override(tuner=("none",), init_from=bare), output=tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    few = tmp_path / "few.txt"
    lines = (tiny_data / "train.txt").read_text().splitlines()
    few.write_text("".join(f"{line}\n" for line in lines if line.endswith((" 0", " 1"))))
    tested = tmp_path / "tested.txt"
    lines = (tiny_data / "test.txt").read_text().splitlines()
    tested.write_text("".join(f"{line}\n" for line in lines if line.endswith((" 0", " 1"))))
    names = tmp_path / "two.txt"
    names.write_text("".join((tiny_data / "class_names.txt").read_text().splitlines(keepends=True)[:2]))
    smaller = counts.override(train_list=few, test_list=tested, class_names=names)
    with monkeypatch.context() as patch:
        patch.setattr("fastlift.models.tuners.base.adaptive_rank", lambda classes, layers: 2 if classes == 2 else 1)
        with pytest.raises(
            fastlift.UserError, match=r"rank 1, here 2; without --rank it follows the number of classes: give --rank 1$"
        ):
            fastlift.train(smaller, output=tmp_path / "two")
    run = fastlift.train(smaller, output=tmp_path / "two").folder
    assert torch.equal(trained(run, "epoch-001")["head.weight"], trained(source, "epoch-002")["head.weight"][:2])


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


def test_processes_take_the_rows_of_their_classes(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    """Of a split classifier each has some; what it names is the same on all."""
    source, run = tmp_path / "source", tmp_path / "run"
    with pytest.raises(SystemExit, match="0"):
        run_command(command(tiny_clip, tiny_data, source))
    names = renamed(tmp_path, [CLASS_NAMES[3], "a lamp", CLASS_NAMES[5], CLASS_NAMES[4], "a door", CLASS_NAMES[0]])
    more = ("--init-from", str(source), "--shard-classifier", "--class-names", str(names))
    arguments = [word if word != "0.05" else "0.0" for word in command(tiny_clip, tiny_data, run, *more)]
    outcomes = Group(tmp_path / "ranks", 2, run_command, (arguments,)).join()
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].err + outcomes[1].err
    assert "rows of 4 of these 6 classes" in outcomes[0].err
    begun, theirs = trained(run, "epoch-002")["head.weight"], trained(source, "epoch-002")["head.weight"]
    assert torch.equal(begun[[0, 2, 3, 5]], theirs[[3, 5, 4, 0]])
