"""The embedded data set: images that never change, exact counts, a cache that is whole or absent, and weights that fit."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import fastlift
from fastlift.data.datasets import shapes, shapes_lt
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.errors import UserError

ASSETS = Path(fastlift.__file__).parent / "assets"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set small enough to write many times."""
    monkeypatch.setattr(shapes_lt, "TEST_PER_CLASS", 1)
    monkeypatch.setattr(shapes_lt, "class_counts", lambda tail: (2,) * shapes_lt.NUM_CLASSES)


@pytest.mark.parametrize(
    ("arguments", "digest"),
    [
        ((0, "pretrain", 0, 0, shapes.PRETRAIN), "59243ba7cf549136"),
        ((7, "validate", 959, 123456, shapes.PRETRAIN), "d0d5f237083d7a56"),
        ((shapes_lt.SEED, "test", 500, 3, shapes.Scene((1.0, 1.0), (0.9, 0.8, 0.7))), "a830d8c0f2dce193"),
    ],
)
def test_pixels_never_change(arguments: tuple[int, str, int, int, shapes.Scene], digest: str) -> None:
    pixels = shapes.draw(*arguments)
    assert (pixels.shape, pixels.dtype) == ((shapes.SIDE, shapes.SIDE, 3), np.uint8)
    # Sixteen levels a channel: the last bit of a sine may differ between processors, the image may not.
    assert hashlib.sha256((np.round(pixels / 17)).astype(np.uint8).tobytes()).hexdigest()[:16] == digest


def test_every_argument_changes_the_image() -> None:
    base = (1, "train", 10, 20, shapes.PRETRAIN)
    others = [(2, *base[1:]), (1, "test", *base[2:]), (1, "train", 11, *base[3:]), (*base[:3], 21, base[4])]
    others.append((*base[:4], shapes_lt.SCENE))
    images = [shapes.draw(*arguments).tobytes() for arguments in (base, *others)]
    assert len(set(images)) == len(images)
    assert shapes.draw(*base).tobytes() == images[0]


def test_every_kind_shows_its_colour() -> None:
    """On a clean plain image, the middle of a disc has the kind's colour."""
    clean = shapes.Scene((0.0, 0.0))
    for number, (name, colour) in enumerate(shapes.COLOURS.items()):
        kind = shapes.KIND_NAMES.index(f"plain {name} circle")
        middle = shapes.draw(3, "test", kind, number, clean)[28:36, 28:36].mean(axis=(0, 1)) / 255
        nearest = min(shapes.COLOURS, key=lambda other: np.abs(middle - shapes.COLOURS[other]).sum())
        assert nearest == name, (name, colour, middle)


def test_kinds_and_classes() -> None:
    assert len(set(shapes.KIND_NAMES)) == shapes.NUM_KINDS == 960
    assert len(set(shapes_lt.SHAPES_KINDS)) == shapes_lt.NUM_CLASSES == len(shapes_lt.SHAPES_CLASS_NAMES)
    assert set(shapes_lt.SHAPES_CLASS_NAMES) <= set(shapes.KIND_NAMES)


def test_counts_are_long_tailed() -> None:
    counts = sorted(shapes_lt.class_counts(), reverse=True)
    assert (counts[0], counts[-1]) == (200, 2)  # ratio 100
    last = shapes_lt.NUM_CLASSES - 1
    assert counts == [int(200 * 0.01 ** (rank / last) + 1e-9) for rank in range(shapes_lt.NUM_CLASSES)]
    assert list(shapes_lt.class_counts()) != counts  # a label does not tell a class's size
    groups = [sum(n > 100 for n in counts), sum(20 <= n <= 100 for n in counts), sum(n < 20 for n in counts)]
    assert groups == [10, 22, 32]


def test_train_and_test_share_no_image() -> None:
    label = shapes_lt.class_counts().index(200)
    train = {shapes_lt.draw_image("train", label, number).tobytes() for number in range(60)}
    test = {shapes_lt.draw_image("test", label, number).tobytes() for number in range(shapes_lt.TEST_PER_CLASS)}
    assert len(train) == 60
    assert len(test) == shapes_lt.TEST_PER_CLASS
    assert not train & test


def test_prepare_writes_what_the_lists_say(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = shapes_lt.prepare(tmp_path / "cache", progress=lambda what, done, total: seen.append((done, total)))
    names = [line.split(" ", 1) for line in (folder / "class_names.txt").read_text().splitlines()]
    assert [name for _, name in names] == list(shapes_lt.SHAPES_CLASS_NAMES)
    total = 0
    for split, counts in (("train", shapes_lt.class_counts()), ("test", (24,) * shapes_lt.NUM_CLASSES)):
        rows = [line.rsplit(" ", 1) for line in (folder / f"{split}.txt").read_text().splitlines()]
        assert np.bincount([int(label) for _, label in rows]).tolist() == list(counts)
        assert all(path.split("/")[:2] == [split, names[int(label)][0]] for path, label in rows)
        assert {path for path, _ in rows} == {str(p.relative_to(folder)) for p in (folder / split).rglob("*.jpg")}
        total += len(rows)
    assert seen == [(done, total) for done in range(1, total + 1)]
    with Image.open(folder / "train" / names[0][0] / "0000.jpg") as image:
        assert (image.size, image.mode, image.format) == ((shapes.SIDE, shapes.SIDE), "RGB", "JPEG")
        drawn = shapes_lt.draw_image("train", 0, 0).astype(float)
        assert np.abs(np.asarray(image) - drawn).mean() < 6  # JPEG's loss on noisy images
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]


@pytest.mark.usefixtures("few")
def test_prepare_twice_draws_once(tmp_path: Path) -> None:
    folder = shapes_lt.prepare(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert shapes_lt.prepare(tmp_path, progress=lambda *_: pytest.fail("drew again")) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.usefixtures("few")
def test_prepare_after_an_error_leaves_nothing(tmp_path: Path) -> None:
    def full(what: str, done: int, total: int) -> None:
        if done == 50:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        shapes_lt.prepare(tmp_path, progress=full)
    assert list(tmp_path.iterdir()) == []
    assert len((shapes_lt.prepare(tmp_path) / "train.txt").read_text().splitlines()) == 2 * shapes_lt.NUM_CLASSES


def _prepare_slowly(cache: Path) -> None:
    shapes_lt.prepare(cache, progress=lambda what, done, total: time.sleep(0.01))


def test_a_killed_process_leaves_no_half_made_set(tmp_path: Path, few: None) -> None:
    drawing = multiprocessing.get_context("spawn").Process(target=_prepare_slowly, args=(tmp_path,))
    drawing.start()
    while not list(tmp_path.glob(".*/train/*/*.jpg")):
        assert drawing.is_alive()
        time.sleep(0.01)
    assert drawing.pid is not None
    os.kill(drawing.pid, signal.SIGKILL)
    drawing.join()
    (draft,) = tmp_path.iterdir()
    folder = shapes_lt.prepare(tmp_path)
    assert (folder / "test.txt").is_file()
    assert draft.exists()  # it could belong to a process at work ...
    os.utime(draft, (0, 0))
    os.rename(folder, tmp_path / "away")
    shapes_lt.prepare(tmp_path)
    assert not draft.exists()  # ... unless it is old


@pytest.mark.usefixtures("few")
def test_the_slower_of_two_processes_takes_the_other_ones_set(tmp_path: Path) -> None:
    inner: list[Path] = []

    def other_process_finishes(what: str, done: int, total: int) -> None:
        if done == 10:
            inner.append(shapes_lt.prepare(tmp_path, progress=lambda *_: None))

    assert shapes_lt.prepare(tmp_path, progress=other_process_finishes) == inner[0]
    assert list(tmp_path.iterdir()) == inner


@pytest.fixture(scope="module")
def clip() -> open_clip.CLIP:
    model = open_clip.CLIP(**json.loads((ASSETS / "shapes_clip.json").read_text()))
    weights = load_file(ASSETS / "shapes_clip.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=True)
    return model.eval()


def _zero_shot(clip: open_clip.CLIP, pixels: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> float:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = F.interpolate(images, (54, 54), mode="bicubic", antialias=True)[:, :, 3:51, 3:51]
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    with torch.no_grad():
        text = clip.encode_text(
            open_clip.SimpleTokenizer()([f"a photo of a {name}." for name in names]), normalize=True
        )
        image = clip.encode_image((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    return float(((image @ text.T).argmax(dim=1).numpy() == labels).mean())


def test_the_shipped_clip_names_images_it_has_not_seen(clip: open_clip.CLIP) -> None:
    labels = np.arange(shapes.NUM_KINDS)[::2]
    images = np.stack([shapes.draw(99, "validate", int(kind), 5, shapes.Scene((0.0, 0.3))) for kind in labels])
    assert _zero_shot(clip, images, labels, shapes.KIND_NAMES) > 0.60  # chance is 0.001


def test_the_shipped_clip_leaves_room_on_shapes_lt(clip: open_clip.CLIP) -> None:
    labels = np.arange(shapes_lt.NUM_CLASSES).repeat(4)
    images = np.stack([shapes_lt.draw_image("test", int(label), number % 4) for number, label in enumerate(labels)])
    accuracy = _zero_shot(clip, images, labels, shapes_lt.SHAPES_CLASS_NAMES)
    assert 0.30 < accuracy < 0.70


def test_the_shipped_weights_state_their_making() -> None:
    with safe_open(ASSETS / "shapes_clip.safetensors", framework="pt") as file:
        facts = file.metadata()
    assert {"seed", "step", "steps", "batch", "zero_shot_960_kinds"} <= facts.keys()
    assert facts["step"] == facts["steps"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="FASTLIFT_CACHE"):
        load_data_set("shapes_lt", cache_dir=tmp_path / "file")


def test_a_data_root_without_a_data_set_is_not_taken_for_the_drawn_one(tmp_path: Path) -> None:
    """The default set draws itself; who names a folder means other images."""
    with pytest.raises(UserError, match=r"does not hold shapes_lt: train\.txt is not there.*--dataset folder"):
        load_data_set("shapes_lt", data_root=tmp_path)
