"""``data prepare`` tells every step that is missing, not only the first."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastlift import cli
from fastlift.data.inspection.prepare import prepare
from fastlift.errors import UserError


def done(found: Any) -> dict[str, bool]:
    return {step.title: step.done for step in found.steps}


def test_steps_of_a_published_set(tmp_path: Path) -> None:
    found = prepare("places_lt")
    lists = dict.fromkeys(("training list", "test list", "class names"), True)  # which come with fastlift
    assert done(found) == {"data root": False, "image folders": False, **lists, "index": False}
    assert "places2.csail.mit.edu" in found.hint
    (tmp_path / "train").mkdir()
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "Places_LT_train.txt.gz").write_bytes(gzip.compress(b"train/a/1.jpg 0\n"))
    found = prepare("places_lt", data_root=tmp_path, cache_dir=tmp_path)
    assert done(found) == {
        "data root": True,
        "image folders": False,
        "training list": True,
        "test list": True,
        "class names": True,
        "index": False,
    }
    assert not found.ready
    json.dumps(found.to_dict())
    console = Console(file=io.StringIO(), width=200)
    console.print(found.render())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "no folder val in" in shown
    assert shown.count("How to get") == 1


def test_a_ready_set(image_files: Any) -> None:
    image_files.fill().load()
    files = {"train_list": "train.txt", "test_list": "train.txt", "class_names": "names.txt"}
    paths = {flag: image_files.root.parent / file for flag, file in files.items()}
    found = prepare("list", data_root=image_files.root, cache_dir=image_files.cache, **paths)
    assert found.ready
    assert "15 training and 15 test images of 3 classes" in found.steps[0].detail


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="imagenet_lt"):
        prepare("imagenet")


def test_the_command(image_files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 for a set that is ready, 1 while something is missing, 2 for a name that is none."""
    image_files.fill()
    root = image_files.root.parent
    flags = ["--train-list", str(root / "train.txt"), "--test-list", str(root / "train.txt")]
    flags += ["--data-root", str(image_files.root), "--class-names", str(root / "names.txt"), "--json"]
    image_files.load()
    assert cli.main(["data", "prepare", "list", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["ready"]
    assert cli.main(["data", "prepare", "imagenet_lt", "--data-root", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "missing  image folders: no folder train and val" in shown.replace("\n", " ")
    assert "image-net.org" in shown
    assert cli.main(["data", "prepare", "imagenet"]) == 2
    assert "did you mean imagenet_lt" in capsys.readouterr().err
