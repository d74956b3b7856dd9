"""``fastlift data check`` and ``stats``: what is wrong with a data set, and what it looks like."""

import contextlib
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.groups import GROUP_BOUNDARIES, group_masks
from fastlift.data.index.index import ImageIndex
from fastlift.data.index.problems import SHOWN, Problems, UnusableData
from fastlift.data.index.scan import Progress
from fastlift.data.loading.decode import load_image
from fastlift.data.loading.reading import DecodeError
from fastlift.system.machine import cpus

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class CheckResult:
    """What ``check`` found; ``problems`` is empty for a usable set."""

    dataset: str
    problems: tuple[str, ...]
    hint: str  # how to get the data, where that may help
    train_images: int  # 0 where the set could not be loaded
    test_images: int
    classes: int
    looked_at: str  # "headers" of the files, "shards" of a pack, "arrays", or "pictures": every one decoded
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the set is usable."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ok": self.ok}

    def render(self) -> Any:
        """A rich renderable: the first problems, or a line that all is well."""
        from rich.text import Text

        if self.ok:
            how = {
                "headers": "all headers read",
                "shards": "shards whole, no image read",
                "arrays": "arrays read",
                "pictures": "every image decoded",
            }[self.looked_at]
            return Text(
                f"{self.dataset}: fine. {self.train_images:,} training and {self.test_images:,} test images, "
                f"{self.classes:,} classes; {how} in {self.seconds:.1f} s",
                style="green",
            )
        shown = Problems(self.dataset, self.hint, list(self.problems)).message()
        more = f"\n(all {len(self.problems):,} with --json)" if len(self.problems) > SHOWN else ""
        return Text(shown + more)


def check(name: str, *, decode: bool = False, progress: Progress | None = None, **options: Any) -> CheckResult:
    """Look for everything that is wrong with a data set: lists, counts, missing and unreadable files, all looked at anew.

    Args:
        name: of the data set; ``options`` as for ``load_data_set``.
        decode: decode every image whose header is fine as well (slow: about a thousand a second on two cores).

    Raises:
        UserError: wrong use, or lists and folders that are not there at all.
    """
    start = time.perf_counter()
    entries: list[str] = []
    hint, data = "", None
    try:
        data = load_data_set(name, rescan=True, progress=progress, **options)
    except UnusableData as error:
        entries, hint = error.problems.entries, error.problems.hint
        if decode:
            with contextlib.suppress(UnusableData):  # the images that are left
                data = load_data_set(name, bad_images="skip", **options)
    if decode and data is not None:
        entries += [entry for index in (data.train, data.test) for entry in _undecodable(index, progress)]
    elif decode:
        hint = f"No image was decoded: that needs usable lists.\n{hint}".rstrip()
    sizes = (0, 0, 0) if data is None else (len(data.train), len(data.test), len(data.class_names))
    looked_at = "headers" if data is None else "pictures" if decode else _kind(data.train)
    return CheckResult(name, tuple(dict.fromkeys(entries)), hint, *sizes, looked_at, time.perf_counter() - start)


def _kind(index: ImageIndex) -> str:
    if index.arrays is not None:
        return "arrays"
    return "headers" if index.spans is None else "shards"


def _undecodable(index: ImageIndex, progress: Progress | None) -> Iterable[str]:
    """Decode all images of a split; those that fail, with the reason."""
    if index.arrays is not None:
        return

    def attempt(i: int) -> str:
        try:
            load_image(index, i)
        except DecodeError as error:
            return f"{index.label_of(i)}: {error}"
        return ""

    with ThreadPoolExecutor(cpus()) as pool:
        for done, problem in enumerate(pool.map(attempt, range(len(index)), chunksize=1), start=1):
            if progress and (done % 100 == 0 or done == len(index)):
                progress(f"decode {index.name}", done, len(index))
            if problem:
                yield problem


@dataclass(frozen=True)
class SplitStats:
    """One split in numbers."""

    images: int
    classes_with_images: int
    largest_class: int
    smallest_class: int
    width_quantiles: dict[str, int]  # "min", "5%", ..., "max", in pixels
    height_quantiles: dict[str, int]
    decoded_mib: float  # as uint8 RGB
    replaced: int  # unusable files with a replacement (bad_images="skip")


@dataclass(frozen=True)
class Stats:
    """A data set in numbers."""

    dataset: str
    fingerprint: str  # of the training split
    classes: int
    train: SplitStats
    test: SplitStats
    groups: dict[str, dict[str, int]]  # many, medium, few: classes, training and test images
    train_counts: tuple[int, ...]  # by class
    class_names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def render(self) -> Any:
        """A rich renderable: tables, and the class counts as a picture."""
        from rich.console import Group
        from rich.text import Text

        return Group(_splits_table(self), _groups_table(self), Text(long_tail_picture(self.train_counts)))


def stats(
    name: str, *, boundaries: tuple[int, int] = GROUP_BOUNDARIES, progress: Progress | None = None, **options: Any
) -> Stats:
    """The numbers of a data set, with groups split at ``boundaries``; ``options`` as for ``load_data_set``."""
    return describe(load_data_set(name, progress=progress, **options), boundaries)


def describe(data: DataSet, boundaries: tuple[int, int] = GROUP_BOUNDARIES) -> Stats:
    """The numbers of a loaded data set."""
    train_counts, test_counts = data.train.class_counts(), data.test.class_counts()
    groups = {
        group: {
            "classes": int(mask.sum()),
            "train_images": int(train_counts[mask].sum()),
            "test_images": int(test_counts[mask].sum()),
        }
        for group, mask in group_masks(data.group_counts.tolist(), boundaries).items()
    }
    splits, counts = (_split(data.train), _split(data.test)), tuple(train_counts.tolist())
    return Stats(data.name, data.train.fingerprint, len(data.class_names), *splits, groups, counts, data.class_names)


def _split(index: ImageIndex) -> SplitStats:
    counts = index.class_counts()
    classes = int((counts > 0).sum()), int(counts.max()), int(counts.min())
    quantiles = _quantiles(index.widths), _quantiles(index.heights)
    return SplitStats(len(index), *classes, *quantiles, index.decoded_bytes() / 2**20, len(index.bad))


def _quantiles(values: np.ndarray) -> dict[str, int]:
    names = ["min", *(f"{q:.0%}" for q in _QUANTILES[1:-1]), "max"]
    return dict(zip(names, np.quantile(values, _QUANTILES, method="nearest").astype(int).tolist(), strict=True))


def long_tail_picture(counts: Iterable[int], width: int = 64, height: int = 8) -> str:
    """Class counts, largest first, as a histogram of block characters; the height is logarithmic.

    Example, 10 classes of 5000 down to 50 images: a slope from a full block to a quarter one.
    """
    ordered = np.sort(np.asarray(list(counts)))[::-1]
    width = min(width, len(ordered))
    columns = np.array([chunk.mean() for chunk in np.array_split(ordered, width)])
    top = max(float(columns.max()), 2.0)
    eighths = np.rint(np.log1p(columns) / np.log1p(top) * height * 8).astype(int)
    rows = (np.clip(eighths - 8 * below, 0, 8) for below in reversed(range(height)))
    lines = ["".join(_BARS[k] for k in row).rstrip() for row in rows]
    caption = f"{len(ordered):,} classes, {ordered[0]:,} down to {ordered[-1]:,} training images (logarithmic)"
    return "\n".join([*lines, caption])


def _splits_table(found: Stats) -> Any:
    splits = (found.train, found.test)
    table = _table(f"{found.dataset}: {found.classes:,} classes", "", "train", "test")
    for label, field in (
        ("images", "images"),
        ("classes with images", "classes_with_images"),
        ("largest class", "largest_class"),
        ("smallest class", "smallest_class"),
        ("unusable files replaced", "replaced"),
    ):
        table.add_row(label, *(f"{getattr(split, field):,}" for split in splits))
    for label, field in (("width", "width_quantiles"), ("height", "height_quantiles")):
        sides = (getattr(split, field) for split in splits)
        table.add_row(f"{label}: least, median, largest", *(f"{s['min']}, {s['50%']}, {s['max']}" for s in sides))
    table.add_row("decoded (MiB)", *(f"{split.decoded_mib:,.0f}" for split in splits))
    return table


def _groups_table(found: Stats) -> Any:
    table = _table(None, "group", "classes", "training images", "test images")
    for group, row in found.groups.items():
        table.add_row(group, *(f"{count:,}" for count in row.values()))
    return table


def _table(title: str | None, *columns: str) -> Any:
    """Without rows: names in the first column, numbers in the others."""
    from rich.table import Table

    table = Table(title=title)
    for k, column in enumerate(columns):
        table.add_column(column, justify="right" if k else "left")
    return table
