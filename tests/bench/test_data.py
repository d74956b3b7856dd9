"""``fastlift bench data`` measures every way it is asked for; its numbers are not tested, only that they are measured."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from web_server import WebServer
from web_server import web as web

from fastlift.bench.data import run
from fastlift.bench.data_images import draw_image, files_to_read
from fastlift.bench.data_rounds import alternate
from fastlift.bench.data_ways import WAYS
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.sampling.crops import TrainCrops
from fastlift.errors import UserError


def test_it_measures_and_names_the_bottleneck(image_files: Any) -> None:
    index = image_files.fill(each=3).load().train
    found = run(
        index, image_size=32, images=64, rounds=2, workers=[1], ways=["torchvision-pil", "fastlift-torchvision"]
    )
    assert [(row.way, row.workers) for row in found.rows] == [("torchvision-pil", 1), ("fastlift-torchvision", 1)]
    for row in found.rows:
        assert len(row.rounds_images_per_s) == 2
        assert min(row.rounds_images_per_s) > 0
        assert row.cpu_ms_per_image > 0
    assert found.images == 64
    assert found.bottleneck in found.stages_ms
    assert min(found.stages_ms.values()) >= 0
    json.dumps(found.to_dict())
    console = Console(file=io.StringIO(), width=120)
    console.print(found.render())
    assert "Bottleneck" in console.file.getvalue()  # type: ignore[attr-defined]


def test_only_jpegs_are_compared(image_files: Any, make_bad_file: Callable, tmp_path: Path) -> None:
    """torchvision.io reads nothing else; an image of another kind must not end the measuring."""
    for k, kind in enumerate(("alpha", "grey", "cmyk", "progressive", "tiff")):
        image_files.add(f"c0/{k}.x", 0, make_bad_file(kind))
    files, source = files_to_read(image_files.load(classes=1).train, 10, tmp_path, None)
    assert [Path(file).name for file in files] == ["1.x", "3.x"]
    assert source == "the first 2 JPEGs of list/train"


def test_images_of_a_store_are_copied(image_files: Any, web: WebServer, tmp_path: Path) -> None:
    """The ways that are compared read files of this machine."""
    image_files.fill(classes=1, each=3).load(classes=1)
    index = load_data_set("list", **{**image_files.options(), "data_root": f"{web.url}/images"}).train
    (tmp_path / "copies").mkdir()
    files, source = files_to_read(index, 2, tmp_path / "copies", None)
    assert [Path(file).read_bytes() for file in files] == [
        (image_files.root / f"c0/{k}.jpg").read_bytes() for k in (0, 1)
    ]
    assert source == "the first 2 JPEGs of list/train, copied"


def test_files_that_vanished_since_the_scan_are_left_out(image_files: Any) -> None:
    index = image_files.fill(classes=1, each=3).load(classes=1).train
    (image_files.root / "c0" / "0.jpg").unlink()
    found = run(index, image_size=32, images=2, rounds=1, workers=[1], ways=["fastlift-torchvision"])
    assert found.source == "the first 2 JPEGs of list/train"
    for k in (1, 2):
        (image_files.root / "c0" / f"{k}.jpg").unlink()
    with pytest.raises(UserError, match="no JPEG files"):
        run(index, images=1, rounds=1)


def test_a_way_that_fails_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fastlift-torchvision failed: .*missing") as caught:
        alternate([("fastlift-torchvision", 1)], [str(tmp_path / "gone.jpg")], TrainCrops(32), 1, None)
    assert caught.value.exit_code == 1


def test_a_set_without_jpegs_is_refused(image_files: Any, make_bad_file: Callable) -> None:
    image_files.add("c0/0.png", 0, make_bad_file("alpha"))
    with pytest.raises(UserError, match="no JPEG files"):
        run(image_files.load(classes=1).train)


def test_drawn_images_have_imagenets_sizes(tmp_path: Path) -> None:
    from PIL import Image

    for seed in (0, 10, 18):
        draw_image(tmp_path / f"{seed}.jpg", seed)
    sizes = [Image.open(tmp_path / f"{seed}.jpg").size for seed in (0, 10, 18)]
    assert sizes == [(500, 375), (375, 500), (1024, 768)]
    bits = (tmp_path / "0.jpg").stat().st_size * 8 / (500 * 375)
    assert 3.5 < bits < 5.5  # 100 real ones: 4.4


def test_nonsense_is_refused(image_files: Any) -> None:
    index = image_files.fill(each=1).load().train
    for numbers in ({"images": 0}, {"rounds": -1}, {"workers": [0]}, {"image_size": 0}):
        with pytest.raises(UserError, match="at least 1"):
            run(index, **numbers)
    with pytest.raises(UserError, match="unknown ways"):
        run(index, ways=["faster"])
    assert len(WAYS) == 4
