"""A run on small scenes whose test split holds copies of training images, known by their names."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fixtures import Files, tiny_recipe
from PIL import Image

import fastlift

COUNTS = (60, 40, 20, 12, 6, 2)
TEST_PER_CLASS = 8
NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")


def scene(label: int, number: int) -> Image.Image:
    """A smooth random image with some of its class's colour, 40 x 40."""
    generator = np.random.default_rng([label, number])
    noise = generator.integers(0, 256, (7, 7, 3)).astype(np.uint8)
    colour = np.random.default_rng(label).integers(0, 256, 3)
    mixed = (0.75 * noise + 0.25 * colour).astype(np.uint8)
    return Image.fromarray(mixed).resize((40, 40), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Planted:
    """A run, its data, and the test image -> training image pairs that were planted."""

    run: Path
    root: Path
    pairs: dict[str, str]


@pytest.fixture(scope="session")
def trained(tiny_clip: Files, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    root = tmp_path_factory.mktemp("scenes")
    for split, counts in (("train", COUNTS), ("test", (TEST_PER_CLASS,) * len(COUNTS))):
        lines = []
        for label, count in enumerate(counts):
            (root / split / NAMES[label]).mkdir(parents=True)
            for number in range(count):
                path = f"{split}/{NAMES[label]}/{number:03}.png"
                scene(label, number + (0 if split == "train" else 1000)).save(root / path)
                lines.append(f"{path} {label}\n")
        (root / f"{split}.txt").write_text("".join(lines))
    (root / "class_names.txt").write_text("".join(f"{name}\n" for name in NAMES))
    pairs = {}

    def plant(test: str, train: str) -> Path:
        pairs[test] = train
        return root / test

    shutil.copy(root / "train/ant/003.png", plant("test/ant/001.png", "train/ant/003.png"))
    with Image.open(root / "train/bee/005.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(plant("test/bee/002.png", "train/bee/005.png"))
    with Image.open(root / "train/cat/007.png") as image:  # under another label
        image.resize((33, 33)).save(plant("test/dog/003.png", "train/cat/007.png"), "JPEG", quality=70)
    settings = tiny_recipe(tiny_clip, root, epochs=1, batch_size=32, eval_batch=32, amp="fp32", thumbnails=8)
    run = tmp_path_factory.mktemp("runs") / "run"
    fastlift.train(settings, output=run, ui=None)
    return Planted(run, root, pairs)


@pytest.fixture
def planted(trained: Planted, tmp_path: Path) -> Planted:
    """The run and its data in folders of their own, to be changed."""
    run, root = tmp_path / "run", tmp_path / "data"
    shutil.copytree(trained.run, run)
    shutil.copytree(trained.root, root)
    return Planted(run, root, trained.pairs)
