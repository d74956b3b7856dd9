"""Predictions of several processes are those of one, in its order, also where files are bad; everything is told once."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fixtures import Files, tiny_recipe
from PIL import Image
from several import Group
from web_server import WebServer

import fastlift
from fastlift import cli
from fastlift.commands import predict as predict_command


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


def test_images_at_urls(
    run: Path, images: Path, tmp_path: Path, web: WebServer, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """Of a web server, and of a folder in a store that lists it: as the files themselves, and each is fetched once."""
    monkeypatch.setenv("FASTLIFT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(images, tmp_path / "photos of mine")
    (tmp_path / "photos of mine" / "01.jpg").write_text("<!DOCTYPE html><html><body>Please log in</body></html>")
    names = ["00.jpg", "01.jpg", "gone.jpg", "05.jpg", "04.jpg"]
    url = f"{web.url}/photos%20of%20mine"
    listed = tmp_path / "list"
    listed.write_text("\n".join([str(images / "02.jpg"), f"{url}/03.jpg?signature=secret"]))
    store = fsspec.filesystem("memory")
    store.pipe({f"/photos/{name}": (images / name).read_bytes() for name in ("06.jpg", "07.jpg")})
    store.pipe("/photos/note.txt", b"")
    asked = ["predict", str(run), "--json", "--device", "cpu", "--eval-batch", "2"]
    assert cli.main([*asked, *(f"{url}/{name}" for name in names), "memory://photos", "--list", str(listed)]) == 1
    told = capsys.readouterr()
    assert "secret" not in told.out + told.err
    found = [json.loads(line) for line in told.out.splitlines()]
    wanted = [f"{url}/00.jpg", f"{url}/04.jpg", "memory://photos/06.jpg", "memory://photos/07.jpg"]
    assert [one["path"] for one in found] == [*wanted, str(images / "02.jpg"), f"{url}/03.jpg?***"]
    problems = [line for line in told.err.splitlines() if web.url in line]
    for name, reason in (
        ("01.jpg", "web page|HTML|text"),
        ("gone.jpg", "missing"),
        ("05.jpg", "decoded|truncated|damaged"),
    ):
        assert any(re.search(f"{name}: .*({reason})", line) for line in problems), problems
    assert web.count("GET", "/00.jpg") == 1
    files = [str(images / f"{number:02d}.jpg") for number in (0, 4, 6, 7, 2, 3)]
    assert cli.main([*asked, *files]) == 0
    local = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["answer"] for one in found] == [one["answer"] for one in local]
    for one, other in zip(found, local, strict=True):
        assert one["top"][0]["probability"] == pytest.approx(other["top"][0]["probability"], abs=1e-4)
    model = fastlift.load_run(run)
    single = model.predict(f"{url}/00.jpg")
    assert single.answer == local[0]["answer"]
    (skipped,) = model.predict([f"{url}/gone.jpg"], bad_images="skip")
    assert skipped.problem == "is missing"
    for place, message in (
        (f"{web.url}/shard.tar", "shard.tar: tar files are read on this machine alone: download it"),
        ("memory://empty", "no images in memory://empty"),
    ):
        with pytest.raises(fastlift.UserError, match=message):
            predict_command.run([str(run), place])


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
