"""From listings to the splits of a data set: scan the files, collect what is wrong with all, raise it together."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from fastlift.data.datasets.dataset import SPLITS, DataSet, Request
from fastlift.data.index.columns import cached_columns
from fastlift.data.index.doubles import rows_in_both
from fastlift.data.index.index import ImageIndex, PathTable, fingerprint
from fastlift.data.index.lists import Listing
from fastlift.data.index.problems import Problems
from fastlift.data.index.scan import SCAN_FORMAT, Scan, finish_index, load_scan, store_scan
from fastlift.data.index.store_scan import scan_anywhere

_NAMED = 3  # classes that a note names


def index_split(
    request: Request,
    split: str,
    key: bytes,
    make_listing: Callable[[], Listing | None],
    class_names: tuple[str, ...],
    problems: Problems,
) -> ImageIndex | None:
    """Scan the files of one split, or take what an earlier scan of the same listing below the same data root found.

    Files that were found bad earlier are looked at again in any case. None where the listing has problems, to which those
    of its files are added.

    Args:
        key: the content that determines the listing, under which the scan is cached.
        make_listing: adds what is wrong to ``problems``; called where no scan is cached. None where there is no use in
            looking for the files.
    """
    assert request.data_root is not None
    root, name = request.data_root, f"{request.name}/{split}"
    cache_file = cached_columns(request.cache_dir, "index", SCAN_FORMAT, root, key)
    scan = None if request.rescan else load_scan(cache_file, len(class_names))
    if scan is None:
        before = problems.total
        listing = make_listing()
        if listing is None:
            return None
        scan = Scan(listing.paths, listing.labels, *scan_anywhere(root, listing.paths, name, request.progress))
        if problems.total > before:
            if request.bad_images == "stop":
                problems.add_files(scan.bad_files(root))
            return None
        store_scan(cache_file, scan)
    elif scan.reasons:
        again = np.array(sorted(scan.reasons))
        widths, heights, reasons = scan_anywhere(root, scan.paths.take(again), name, request.progress)
        found = {int(again[k]): reason for k, reason in reasons.items()}
        if found != scan.reasons:
            scan.widths[again], scan.heights[again] = widths, heights
            scan = replace(scan, reasons=found)
            store_scan(cache_file, scan)
    return finish_index(name, root, scan, class_names, request.bad_images, problems)


def check_classes(labels: np.ndarray, class_names: tuple[str, ...], source: str, problems: Problems) -> None:
    """Add a problem for each class that none of the images, whose labels are int64 [N], is of."""
    counts = np.bincount(labels, minlength=len(class_names))
    for label in np.flatnonzero(counts == 0):
        problems.add(f"{source}: class {label} ({class_names[label]}) has no image")


def index_listings(
    request: Request,
    listings: Mapping[str, Listing],
    class_names: tuple[str, ...],
    problems: Problems,
    group_counts: np.ndarray | None = None,
) -> DataSet:
    """The data set of the listings of its splits, which were read from the folders; see ``finish``."""

    def index(split: str, listing: Listing) -> ImageIndex | None:
        nothing = listing.labels[:0]
        key = b"listing\0" + fingerprint(listing.paths, listing.labels, nothing, nothing, ()).encode()
        return index_split(request, split, key, lambda: listing, class_names, problems)

    indices = {split: index(split, listing) for split, listing in listings.items()}
    return finish(request, indices, problems, group_counts)


def note_shared(paths: Mapping[str, PathTable], problems: Problems) -> None:
    """A note for images that are in the training split and in another one, by their paths in the data root."""
    for split, others in paths.items():
        if split != "train" and "train" in paths and (both := rows_in_both(paths["train"], others)):
            problems.notes.append(
                f"{len(both):,} of {len(others):,} {SPLITS[split]} images are training images too, such as "
                f"{others[both[0][1]]}: figures will be too good"
            )


def finish(
    request: Request,
    splits: Mapping[str, ImageIndex | None],
    problems: Problems,
    group_counts: np.ndarray | None = None,
) -> DataSet:
    """The data set of its splits by name, with groups by ``group_counts``, int64 [C], or by the training counts.

    Without a test split one is cut off first; a validation split, where one is asked for, then comes from what is left, and
    the groups stay those of all that is left.

    Raises UnusableData where there are problems; of a split that is None there are. UserError for splits
    that cannot be cut off.
    """
    problems.raise_if_any()
    found = {split: index for split, index in splits.items() if index is not None}
    name, classes = request.name, found["train"].class_names
    check_classes(found["train"].labels, classes, f"{name}/train", problems)
    problems.raise_if_any()
    tested, note = request.cut.cut_test(name, found)
    counts = tested["train"].class_counts() if group_counts is None else group_counts
    whole = request.cut.cut_val(name, tested)
    cut = tuple(split for split in whole if split not in found)
    untold = (_without_images(name, split, whole[split]) for split in ("val", "test") if split in found)
    notes = (*problems.notes, *filter(None, [note, *untold]))
    return DataSet(name, whole["train"], whole["test"], classes, counts, val=whole.get("val"), cut=cut, notes=notes)


def _without_images(name: str, split: str, index: ImageIndex) -> str:
    """A note of the classes that a given split has no image of; empty where there are none."""
    classes = [index.class_names[label] for label in np.flatnonzero(index.class_counts() == 0)]
    if not classes:
        return ""
    more = f" and {len(classes) - _NAMED:,} more" if len(classes) > _NAMED else ""
    return (
        f"{name}: no {SPLITS[split]} image of {len(classes):,} of {index.num_classes:,} classes "
        f"({', '.join(classes[:_NAMED])}{more}): the {SPLITS[split]} figures tell nothing of these"
    )
