"""From listings to the two splits of a data set: scan the files, collect what is wrong with both, raise it together."""

from collections.abc import Callable, Sequence

import numpy as np

from fastlift.data.datasets.dataset import DataSet, Request
from fastlift.data.index.index import ImageIndex, fingerprint
from fastlift.data.index.lists import Listing
from fastlift.data.index.problems import Problems
from fastlift.data.index.scan import cached_scan, finish_index, scan_files


class _Rejected(Exception):
    """A listing with problems, which are collected already: nothing to cache."""

    def __init__(self, listing: Listing) -> None:
        super().__init__()
        self.listing = listing


def index_split(
    request: Request,
    split: str,
    key: bytes,
    make_listing: Callable[[], Listing],
    class_names: tuple[str, ...],
    problems: Problems,
) -> ImageIndex | None:
    """Scan one split of the data root; None where its listing has problems already, to which those of its files are added.

    Args:
        key: the content that determines the listing, under which the scan is cached.
        make_listing: adds what is wrong to ``problems``; called where no scan is cached.
    """

    def checked() -> Listing:
        before = problems.total
        listing = make_listing()
        if problems.total > before:
            raise _Rejected(listing)
        return listing

    assert request.data_root is not None
    root, what = request.data_root, f"{request.name}/{split}"
    try:
        scan = cached_scan(
            root, key, checked, request.cache_dir, len(class_names), request.rescan, what, request.progress
        )
    except _Rejected as rejected:
        paths = rejected.listing.paths
        *_, reasons = scan_files(root, paths, np.arange(len(paths)), what, request.progress)
        if request.bad_images == "stop":
            problems.add_files(f"{root / paths[i]}: {reasons[i]}" for i in sorted(reasons))
        return None
    return finish_index(what, root, scan, class_names, request.bad_images, problems)


def index_listing(
    request: Request, split: str, listing: Listing, class_names: tuple[str, ...], problems: Problems
) -> ImageIndex | None:
    """The same for a listing that was read from the folders."""
    nothing = listing.labels[:0]
    key = b"listing\0" + fingerprint(listing.paths, listing.labels, nothing, nothing, ()).encode()
    return index_split(request, split, key, lambda: listing, class_names, problems)


def check_classes(listing: Listing, class_names: tuple[str, ...], source: str, problems: Problems) -> None:
    """Add a problem for each class without an image."""
    counts = np.bincount(listing.labels, minlength=len(class_names))
    for label in np.flatnonzero(counts == 0):
        problems.add(f"{source}: class {label} ({class_names[label]}) has no image")


def finish(
    name: str, splits: Sequence[ImageIndex | None], problems: Problems, group_counts: np.ndarray | None = None
) -> DataSet:
    """The data set of a training and a test split, with groups by ``group_counts``, int64 [C], or by the training counts.

    Raises:
        UnusableData: there are problems; of a split that is None there are.
    """
    problems.raise_if_any()
    train, test = splits
    assert train is not None
    assert test is not None
    counts = train.class_counts() if group_counts is None else group_counts
    return DataSet(name, train, test, train.class_names, counts)
