"""``fastlift data stats``: a data set in numbers, and a plot of its class counts."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.dataset import SPLITS, DataSet
from fastlift.data.index.groups import GROUP_BOUNDARIES, group_masks
from fastlift.data.index.header_scan import Progress
from fastlift.data.index.index import ImageIndex

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BARS = " ▁▂▃▄▅▆▇█"


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
    splits: dict[str, SplitStats]  # train, val, test: those that there are
    groups: dict[str, dict[str, int]]  # many, medium, few: classes, and images of each split
    train_counts: tuple[int, ...]  # by class
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what whoever uses the set should know

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def render(self) -> Any:
        """A rich renderable: tables, and a plot of the class counts."""
        from rich.console import Group
        from rich.text import Text

        return Group(
            _splits_table(self), _groups_table(self), Text("\n".join([long_tail_plot(self.train_counts), *self.notes]))
        )


def stats(
    name: str, *, boundaries: tuple[int, int] = GROUP_BOUNDARIES, progress: Progress | None = None, **options: Any
) -> Stats:
    """The numbers of a data set, with groups split at ``boundaries``; ``options`` as for ``load_data_set``."""
    return describe(load_data_set(name, progress=progress, **options), boundaries)


def describe(data: DataSet, boundaries: tuple[int, int] = GROUP_BOUNDARIES) -> Stats:
    """The numbers of a loaded data set."""
    counts = {split: index.class_counts() for split, index in data.splits.items()}
    groups = {
        group: {"classes": int(mask.sum()), **{f"{split}_images": int(n[mask].sum()) for split, n in counts.items()}}
        for group, mask in group_masks(data.group_counts.tolist(), boundaries).items()
    }
    splits, train_counts = {name: _split(index) for name, index in data.splits.items()}, tuple(counts["train"].tolist())
    classes = data.class_names
    return Stats(data.name, data.train.fingerprint, len(classes), splits, groups, train_counts, classes, data.notes)


def _split(index: ImageIndex) -> SplitStats:
    counts = index.class_counts()
    classes = int((counts > 0).sum()), int(counts.max()), int(counts.min())
    quantiles = _quantiles(index.widths), _quantiles(index.heights)
    return SplitStats(len(index), *classes, *quantiles, index.decoded_bytes() / 2**20, len(index.bad))


def _quantiles(values: np.ndarray) -> dict[str, int]:
    names = ["min", *(f"{q:.0%}" for q in _QUANTILES[1:-1]), "max"]
    return dict(zip(names, np.quantile(values, _QUANTILES, method="nearest").astype(int).tolist(), strict=True))


def long_tail_plot(counts: Iterable[int], width: int = 64, height: int = 8) -> str:
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
    splits = found.splits.values()
    table = _table(f"{found.dataset}: {found.classes:,} classes", "", *found.splits)
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
    table = _table(None, "group", "classes", *(f"{SPLITS[split]} images" for split in found.splits))
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
