"""Data sets by name. To add one: a file beside this one that makes a ``Source``, and a line in ``SOURCES``."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from fastlift.data.datasets.cifar import CIFAR
from fastlift.data.datasets.cutting import CutSettings
from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.folder import FOLDER
from fastlift.data.datasets.hub import HUGGINGFACE
from fastlift.data.datasets.imagenet_lt import IMAGENET_LT
from fastlift.data.datasets.inaturalist2018 import INATURALIST2018
from fastlift.data.datasets.list_files import LIST, is_json, read_list
from fastlift.data.datasets.long_tail import LARGEST, RATIO, TailSettings
from fastlift.data.datasets.packed import PACK_MANIFEST, load_pack
from fastlift.data.datasets.places_lt import PLACES_LT
from fastlift.data.datasets.published_lists import place_of_list
from fastlift.data.datasets.shapes_lt import SHAPES_LT
from fastlift.data.datasets.taxon import Taxon, TaxonSettings
from fastlift.data.datasets.webdataset import WEBDATASET
from fastlift.data.index.header_scan import Progress
from fastlift.data.index.index import fingerprint
from fastlift.data.index.lines import read_lines
from fastlift.data.index.problems import Problems
from fastlift.data.index.replacements import BadImages, BadImageSettings
from fastlift.data.index.table_files import kind_of
from fastlift.data.index.tables import Columns
from fastlift.data.stores.cache import CacheSettings
from fastlift.data.stores.cached import Session
from fastlift.data.stores.url import Url, is_url, local_copy, place_of
from fastlift.errors import UserError
from fastlift.settings import Acts, May, NamesPlace, Settings, check_effects, one_of
from fastlift.system.files import cache_folder, expand_user, read_json

SOURCES: tuple[Source, ...] = (
    SHAPES_LT,
    IMAGENET_LT,
    PLACES_LT,
    INATURALIST2018,
    *CIFAR,
    LIST,
    FOLDER,
    WEBDATASET,
    HUGGINGFACE,
)

PYTHON = "python"  # in a run's config.json, of what was handed over as an object


def names() -> list[str]:
    """The data sets that ``load_data_set`` knows (CIFAR at other ratios too: ``cifar100_ir20``)."""
    return [source.name for source in SOURCES]


def source_of(name: str) -> Source:
    """The data set of a name; for an unknown one, and for one that came from Python, a UserError."""
    if name == PYTHON:
        raise UserError(
            "this data set came from Python, so no file tells it: make it there again (fastlift.data.from_...) and give it on, "
            "to fastlift.train(config, dataset=..., output=RUN, resume=True) to go on with the run, or to "
            "fastlift.evaluate_run(RUN, dataset=...)"
        )
    found = next((found for source in SOURCES if (found := source.named(name)) is not None), None)
    return found or source_of(one_of("data set", name, names()))  # raises


def data_set_meant(dataset: str | None, data_root: str | Path | None, train_list: str | Path | None) -> str:
    """The data set by name; where none is named, what the given places are of: a list, shards, a pack, else class folders.

    Without any place it is the set that is drawn on this machine.
    """
    if dataset is not None:
        return dataset
    if train_list is not None:
        return WEBDATASET.name if str(train_list).endswith(".tar") else LIST.name
    if data_root is None:
        return SHAPES_LT.name
    root = place_of(data_root)
    if isinstance(root, Path):
        if any((root / file).is_file() for file in ("dataset_dict.json", "dataset_info.json")):
            return HUGGINGFACE.name
        if (root / PACK_MANIFEST).is_file():
            return str(read_json(root / PACK_MANIFEST).get("dataset", FOLDER.name))
        if any(root.glob("*.tar")) or any(root.glob("train/*.tar")):
            return WEBDATASET.name
    return FOLDER.name


def _has_columns(dataset: str, train_list: str | None) -> bool:
    return dataset == LIST.name and train_list is not None and bool(kind_of(train_list))


def _has_features(dataset: str, train_list: str | None) -> bool:
    return HUGGINGFACE.named(dataset) is not None or _has_columns(dataset, train_list)


_OF_TABLES = Acts("a column of a table (--train-list photos.csv)", _has_columns)
_OF_FEATURES = Acts("a column of a table (--train-list photos.csv) or of a Hugging Face data set", _has_features)


@dataclass(frozen=True)
class SourceSettings(Settings):
    """Which data set, and where it lies."""

    dataset: str = "shapes_lt"
    """Data set by name ('fastlift data --help' lists them). Where it is left out, --data-root alone means 'folder' (or the shards or Hugging Face data set that lie there), --train-list means 'list', and neither 'shapes_lt', which is drawn on this machine."""
    data_root: Annotated[str | None, NamesPlace(), May.CHANGE | May.DIFFER] = None
    """Folder with the images, or its URL ('s3://bucket/folder', gs://, hf://, https://)."""
    train_list: Annotated[str | None, NamesPlace(), May.DIFFER] = None
    """List file of the training split, or its URL: lines of 'relative/path label' (.gz too), or a table (.csv, .tsv, .jsonl, .parquet), which may have a column of splits. For webdataset a pattern of its shards: 'train-{000000..000099}.tar'."""
    val_list: Annotated[str | None, NamesPlace(), May.DIFFER] = None
    """The same of the validation split, where there is one."""
    test_list: Annotated[str | None, NamesPlace(), May.DIFFER] = None
    """The same of the test split."""
    class_names: Annotated[str | None, NamesPlace(), May.DIFFER] = None
    """Class-name file, or its URL: lines of 'folder name', in the order of the labels."""
    image_column: Annotated[str | None, _OF_FEATURES] = None
    """Column of a table with the paths of the images, or of a Hugging Face data set with the images (default: found by the common names)."""
    label_column: Annotated[str | None, _OF_FEATURES] = None
    """Column of these with the labels, numbers or words (default: found by the common names)."""
    split_column: Annotated[str | None, _OF_TABLES] = None
    """Column of a table with the splits: train, val, test (default: found by the common names, where there is one)."""

    def build(
        self,
        taxon: TaxonSettings,
        bad_images: BadImageSettings,
        stores: CacheSettings,
        cut: CutSettings,
        tail: TailSettings,
        *,
        cache_dir: Path | None = None,
        rescan: bool = False,
        progress: Progress | None = None,
    ) -> DataSet:
        """Load and check the splits; see ``load_data_set``."""
        source = source_of(self.dataset)
        self._refuse_unused_files(source)
        cache = expand_user(cache_dir) if cache_dir else cache_folder()
        places = self._places(source, cache, stores)
        columns = Columns(self.image_column, self.label_column, self.split_column)
        request = Request(self.dataset, cache, bad_images.bad_images, rescan, progress, cut, tail, columns, **places)
        root = request.data_root
        if isinstance(root, Url) and not source.takes_urls:
            raise UserError(f"the data set {self.dataset} takes a local folder as --data-root, not {root}")
        if isinstance(root, Path) and not root.is_dir():
            raise UserError(f"the data root {root} is not a folder.{source.how_to_get()}")
        packed = root is not None and (root / PACK_MANIFEST).is_file()
        loaded = _load_packed(request) if packed else source.load(request)
        _check_tail(source, request, loaded)
        data = taxon.build(loaded)
        if isinstance(root, Url):
            root.session.listings.clear()  # of millions of files, maybe
        settings = {
            name: value for part in (self, taxon, bad_images, cut, tail) for name, value in part.values().items()
        }
        return replace(data.changed(lambda index: replace(index, cache=cache)), settings=settings)

    def _refuse_unused_files(self, source: Source) -> None:
        lists = {"--train-list": self.train_list, "--val-list": self.val_list, "--test-list": self.test_list}
        given = [flag for flag, file in lists.items() if file is not None]
        if given and not source.takes_lists:
            raise UserError(
                f"{' and '.join(given)}: the data set {self.dataset} has no list files (use --dataset list)"
            )
        if self.class_names is not None and not source.takes_class_names:
            raise UserError(f"--class-names: the data set {self.dataset} brings its own names")

    def _places(self, source: Source, cache: Path, stores: CacheSettings) -> dict[str, Any]:
        """What a request says of places: the data root, files that are on this machine now, patterns of shards."""
        files = {name: getattr(self, name) for name in ("train_list", "val_list", "test_list", "class_names")}
        patterns = {}
        if source.lists_are_patterns:
            lists = {split: files.pop(f"{split}_list") for split in ("train", "val", "test")}
            patterns = {split: pattern for split, pattern in lists.items() if pattern is not None}
        given = {name: local_copy(place_of_list(file), cache) for name, file in files.items() if file is not None}
        root = None if self.data_root is None else place_of(self.data_root)
        if root is None and source is LIST and is_url(self.train_list):
            raise UserError("--train-list is a URL: give --data-root, the folder or URL that its paths start from")
        if isinstance(root, Url) and source.takes_urls:
            root = Url(root.text, Session(stores.build(cache)))
        return {"data_root": root, "patterns": patterns, **given}


def load_data_set(
    name: str,
    *,
    data_root: str | Path | None = None,
    train_list: str | Path | None = None,
    val_list: str | Path | None = None,
    test_list: str | Path | None = None,
    class_names: str | Path | None = None,
    taxon: Taxon = "species",
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    cache_dir: str | Path | None = None,
    bad_images: BadImages = "stop",
    data_cache: str | Path | None = None,
    data_cache_gb: float = 10.0,
    test_share: float | None = None,
    val_share: float = 0.0,
    split_seed: int = 0,
    imbalance_ratio: float = RATIO,
    head_share: float | None = None,
    largest_class: int = LARGEST,
    rescan: bool = False,
    progress: Progress | None = None,
) -> DataSet:
    """Load and check the splits of a data set.

    Args:
        name: one of ``names()``.
        data_root: folder of the images, its URL, or a pack of the set (``fastlift data pack``). Not needed for ``shapes_lt``, and for
            CIFAR only where it is not to be downloaded into the cache.
        train_list, val_list, test_list, class_names: files, for ``list`` and in place of the found ones for published sets.
        taxon: what the classes of iNaturalist are: its species, or their groups at a rank of ``taxon.RANKS``.
        image_column, label_column, split_column: of tables that are given as lists, where their names do not tell.
        cache_dir: where indices, the drawn shapes and downloads go; default ``cache_folder()``.
        bad_images: "stop" to refuse unusable files, "skip" to put the next good file of the class in their place.
        test_share, val_share, split_seed: the share of each class's images that becomes the test split of a set that has none
            (default 0.2), that of its training images which becomes the validation split (default: none), and the seed of
            which; see ``cutting.cut_off``.
        imbalance_ratio, head_share, largest_class: how many images the classes of ``shapes_lt`` have; the share of CIFAR-LT too.
            See ``TailSettings``.
        data_cache, data_cache_gb: the folder for copies of what is read from a store, and its bound; see ``CacheSettings``.
        rescan: look at all files again instead of trusting the cached sizes.
        progress: called with (what, done, total) during the header scan.

    Returns:
        ``train``, ``test`` and maybe ``val``, indices of paths (or arrays), labels and sizes; ``class_names``;
        ``group_counts``, int64 [C].

    Raises:
        UserError: an unknown name, missing files, or problems in lists and images: the first ten and the total.
    """
    places = (data_root, train_list, val_list, test_list, class_names)
    files = (None if place is None else os.fspath(place) for place in places)
    columns = {"image_column": image_column, "label_column": label_column, "split_column": split_column}
    source, tail = SourceSettings(name, *files, **columns), TailSettings(imbalance_ratio, head_share, largest_class)
    check_effects([TailSettings], source.values() | tail.values(), TailSettings().values(), tail.values())
    return source.build(
        TaxonSettings(taxon),
        BadImageSettings(bad_images),
        CacheSettings(None if data_cache is None else os.fspath(data_cache), data_cache_gb),
        CutSettings(test_share, val_share, split_seed),
        tail,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        rescan=rescan,
        progress=progress,
    )


def _check_tail(source: Source, request: Request, data: DataSet) -> None:
    """Raises UserError where what lies at a data root was drawn otherwise than the settings ask for."""
    expected = None if request.data_root is None else source.counts(request.tail)
    if expected is None or request.tail == TailSettings():
        return
    found = data.train.class_counts() + (data.val.class_counts() if data.val is not None and "val" in data.cut else 0)
    if found.tolist() != expected.tolist():
        raise UserError(
            f"{request.data_root} holds {data.name} with {found.max():,} down to {found.min():,} training images per class, not "
            f"{expected.max():,} down to {expected.min():,} as the settings of its tail ask for (--imbalance-ratio, --head-share, "
            "--largest-class): give those that it was packed with"
        )


def _load_packed(request: Request) -> DataSet:
    """A pack brings its lists and names: those that are given beside it must be the same."""
    assert request.data_root is not None
    data = load_pack(request)
    count = len(data.class_names)
    lists = {"train": request.train_list, "val": request.val_list, "test": request.test_list}
    for split, file in lists.items():
        if file is None:
            continue
        flag, index = f"--{split}-list", data.splits.get(split)
        if index is None:
            raise UserError(f"{flag}: {request.data_root} was packed without such a split: make another pack")
        listing = read_list(file, count, Problems(str(file)))
        sizes = (index.widths, index.heights) if len(listing.labels) == len(index) else (index.widths[:0],) * 2
        if fingerprint(listing.paths, listing.labels, *sizes, index.class_names) != index.fingerprint:
            raise UserError(
                f"{flag} {file} is not the list that {request.data_root} was packed from: make another pack"
            )
    if request.class_names is not None and not is_json(request.class_names):
        lines = [line.strip() for line in read_lines(request.class_names)]
        known = {*lines, *(line.split(None, 1)[-1] for line in lines)}
        if len(lines) != count or not known.issuperset(data.class_names):
            raise UserError(
                f"--class-names {request.class_names} has other names than {request.data_root} was packed with: make "
                "another pack"
            )
    return data
