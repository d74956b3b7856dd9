"""The published sets that come as list files: their files, known counts, and how to get them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastlift.data.index.lists import Listing
from fastlift.data.index.problems import Problems
from fastlift.errors import UserError


@dataclass(frozen=True)
class Known:
    """What is known of a published data set. File names may have ``.gz`` behind them on disk."""

    title: str
    train_files: tuple[str, ...]  # any of these
    test_files: tuple[str, ...]
    names_files: tuple[str, ...]
    classes: int
    train: int  # lines
    test: tuple[int, ...]  # lines of the test list, and of the validation list where that is another
    largest: int  # training images of a class
    smallest: int
    image_folders: tuple[str, ...]  # under the data root
    how_to_get: str


_OLTR = "https://github.com/zhmiao/OpenLongTailRecognition-OLTR"

PUBLISHED = {
    "imagenet_lt": Known(
        title="ImageNet-LT",
        train_files=("ImageNet_LT_train.txt",),
        test_files=("ImageNet_LT_test.txt",),
        names_files=("ImageNet_LT_classnames.txt",),
        classes=1000,
        train=115_846,
        test=(50_000, 20_000),
        largest=1280,
        smallest=5,
        image_folders=("train", "val"),
        how_to_get=f"""\
Images: ILSVRC 2012 from https://www.image-net.org/download (log in; training and validation images), unpacked as
  DATA_ROOT/train/n01440764/n01440764_10026.JPEG and DATA_ROOT/val/n01440764/ILSVRC2012_val_00000293.JPEG
Lists: ImageNet_LT_train.txt, ImageNet_LT_test.txt and ImageNet_LT_classnames.txt (plain or .gz; lines of
  'path label' and 'folder name') in DATA_ROOT or DATA_ROOT/splits, or by --train-list, --test-list, --class-names.
  The lists of images are published with OLTR, {_OLTR}.
  Without class names, CLIP's own for ImageNet are taken, which are the same.""",
    ),
    "places_lt": Known(
        title="Places-LT",
        train_files=("Places_LT_train.txt",),
        test_files=("Places_LT_test.txt",),
        names_files=("Places_LT_classnames.txt",),
        classes=365,
        train=62_500,
        test=(36_500, 7_300),
        largest=4980,
        smallest=5,
        image_folders=("train", "val"),
        how_to_get=f"""\
Images: Places365-Standard, small or full, from http://places2.csail.mit.edu/download.html, unpacked as
  DATA_ROOT/train/airfield/00000001.jpg and DATA_ROOT/val/airfield/Places365_val_00000435.jpg
Lists: Places_LT_train.txt, Places_LT_test.txt and Places_LT_classnames.txt (plain or .gz; lines of
  'path label' and 'folder name') in DATA_ROOT or DATA_ROOT/splits, or by --train-list, --test-list, --class-names.
  The lists of images are published with OLTR, {_OLTR}""",
    ),
    "inaturalist2018": Known(
        title="iNaturalist 2018",
        train_files=("train2018.json", "iNaturalist18_train.txt"),
        test_files=("val2018.json", "iNaturalist18_val.txt"),
        names_files=("categories.json", "iNaturalist18_categories.json"),
        classes=8142,
        train=437_513,
        test=(24_426,),
        largest=1000,
        smallest=2,
        image_folders=("train_val2018",),
        how_to_get="""\
From https://github.com/visipedia/inat_comp/tree/master/2018: train_val2018.tar.gz (images), train2018.json.tar.gz,
  val2018.json.tar.gz and categories.json.tar.gz, unpacked as
  DATA_ROOT/train_val2018/Aves/2761/PICTURE.jpg, DATA_ROOT/train2018.json, val2018.json and categories.json
Instead of the JSON files: iNaturalist18_train.txt and iNaturalist18_val.txt (lines of 'path label'). Any of them may lie
  in DATA_ROOT/splits, or be given by --train-list, --test-list, --class-names.""",
    ),
}


def how_to_get(name: str) -> str:
    """The hint for a published set, to follow a message; empty for others."""
    return f"\nHow to get {PUBLISHED[name].title}:\n{PUBLISHED[name].how_to_get}" if name in PUBLISHED else ""


def find_file(root: Path, files: tuple[str, ...], name: str, beside: Path | None = None) -> Path:
    """The first of ``files`` in the data root, its ``splits``, or ``beside``, plain or gzipped.

    Raises:
        UserError: none is there; says where it was looked for and how to get the set.
    """
    places = [root, root / "splits", *([beside] if beside and beside not in (root, root / "splits") else [])]
    for candidate in (folder / f"{file}{end}" for folder in places for file in files for end in ("", ".gz")):
        if candidate.is_file():
            return candidate
    looked = " and ".join(str(folder) for folder in places)
    raise UserError(f"{' or '.join(files)} (or with .gz) is not in {looked}.{how_to_get(name)}")


def check_counts(known: Known, split: str, listing: Listing, source: str, problems: Problems) -> None:
    """Compare a list with the numbers that the set is known to have."""
    expected = (known.train,) if split == "train" else known.test
    if len(listing.paths) not in expected:
        wanted = " or ".join(f"{count:,}" for count in expected)
        problems.add(f"{source}: {len(listing.paths):,} lines, {known.title} has {wanted}")
    if split == "train":
        counts = np.bincount(listing.labels, minlength=known.classes)
        if (counts.max(), counts.min()) != (known.largest, known.smallest):
            problems.add(
                f"{source}: largest and smallest class have {counts.max()} and {counts.min()} images, "
                f"{known.title} has {known.largest} and {known.smallest}"
            )
