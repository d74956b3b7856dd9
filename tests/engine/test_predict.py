"""Predictions of several processes are those of one, in its order, also where files are bad; everything is told once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from fixtures import Files, tiny_recipe
from PIL import Image
from several import Group

import fastlift
from fastlift import cli


@pytest.fixture(scope="module")
def run(tiny_clip: Files, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without an epoch, whose classifier was made from images."""
    settings = tiny_recipe(tiny_clip, tiny_data, epochs=0, init="class_mean", amp="fp32")
    return fastlift.train(settings, output=tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture(scope="module")
def images(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 files: of the 2nd, 9th and 21st the header cannot be read, the 6th, 17th and 22nd break when they are decoded."""
    folder = tmp_path_factory.mktemp("images")
    sources = sorted((tiny_data / "test").rglob("*.jpg"))[:23]
    for number, source in enumerate(sources):
        file = folder / f"{number:02d}.jpg"
        shutil.copy(source, file)
        if number in (1, 8, 20):
            file.write_text("no image")
        elif number in (5, 16, 21):
            Image.open(file).save(file, "PNG")
            whole = file.read_bytes()
            file.write_bytes(whole[: len(whole) // 2] + whole[-12:])
    return folder


def fastlift_command(arguments: list[str]) -> None:
    sys.exit(cli.main(arguments))


@pytest.mark.parametrize("processes", [2, 4])
def test_the_output_is_that_of_one_process(processes: int, run: Path, images: Path, tmp_path: Path) -> None:
    """20 readable files in batches of 4: with four processes, shares of one and two batches."""
    asked = ["predict", str(run), str(images), "--json", "--eval-batch", "4", "--device", "cpu", "--top", "3"]
    (alone,) = Group(tmp_path / "one", 1, fastlift_command, (asked,)).join()
    several = Group(tmp_path / "several", processes, fastlift_command, (asked,)).join()
    assert alone.code == 1
    assert len(alone.out.splitlines()) == 23 - 6
    assert len(alone.err.splitlines()) == 6, alone.err
    assert several[0].out == alone.out
    assert sorted(several[0].err.splitlines()) == sorted(alone.err.splitlines())
    # The others end first: where one of them fails, torchrun ends the first one, which still prints.
    assert [outcome.code for outcome in several] == [1] + [0] * (processes - 1)
    assert not any(outcome.out or outcome.err for outcome in several[1:])


def test_more_processes_than_batches(run: Path, images: Path, tmp_path: Path) -> None:
    asked = ["predict", str(run), *(str(images / f"{number:02d}.jpg") for number in (4, 2)), "--device", "cpu"]
    (alone,) = Group(tmp_path / "one", 1, fastlift_command, (asked,)).join()
    several = Group(tmp_path / "several", 3, fastlift_command, (asked,)).join()
    assert [outcome.code for outcome in several] == [0] * 3
    assert several[0].out == alone.out
    assert [line.split(":")[0] for line in alone.out.splitlines()] == asked[2:4]


def test_processes_that_see_other_files_do_not_start(run: Path, images: Path, tmp_path: Path) -> None:
    asked = [[["predict", str(run), str(images / name), "--device", "cpu"]] for name in ("02.jpg", "03.jpg")]
    outcomes = Group(tmp_path / "said", 2, fastlift_command, asked, own=True).join()
    assert [outcome.code for outcome in outcomes] == [2, 2]
    told = [line for outcome in outcomes for line in outcome.err.splitlines() if line.startswith("fastlift: ")]
    assert len(told) == 1
    assert "the list of images is" in told[0]
    assert not any(outcome.out for outcome in outcomes)
