"""What the header scan has found, kept by the list's content, and made an index; ``header_scan`` reads the files."""

import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastlift.data.index.columns import read_columns, write_columns
from fastlift.data.index.index import BadImage, ImageIndex, PathTable, fingerprint
from fastlift.data.index.problems import Problems
from fastlift.data.index.replacements import BadImages, replaced_rows
from fastlift.data.stores.url import Url
from fastlift.errors import FastliftWarning
from fastlift.system.files import parse_json

SCAN_FORMAT = "fastlift-index-2"


@dataclass(frozen=True)
class Scan:
    """A listing with the sizes of its files; unusable files have size 0 and a reason."""

    paths: PathTable
    labels: np.ndarray  # int64 [N]
    widths: np.ndarray  # int32 [N]
    heights: np.ndarray  # int32 [N]
    reasons: dict[int, str]

    def bad_files(self, root: Path | Url) -> Iterator[str]:
        """What is wrong with each unusable file, with its path, in the list's order."""
        return (f"{root / self.paths[i]}: {self.reasons[i]}" for i in sorted(self.reasons))


def load_scan(path: Path, num_classes: int) -> Scan | None:
    """The scan that is kept here; None where there is none, or one that is not as it was written, which is told."""
    if not path.is_file():
        return None
    try:
        return _scan_of(read_columns(path, _KINDS), num_classes)
    except ValueError as error:
        told = f"the index {path} is damaged ({error}): all files are looked at again"
        warnings.warn(told, FastliftWarning, stacklevel=3)
        return None


_KINDS: dict[str, type[np.generic]] = {
    "data": np.uint8,
    "offsets": np.int64,
    "labels": np.int64,
    "widths": np.int32,
    "heights": np.int32,
    "reasons": np.uint8,  # JSON: row -> reason
}


def _scan_of(columns: dict[str, np.ndarray], num_classes: int) -> Scan:
    """Raises ValueError where columns do not belong together."""
    paths, whole = PathTable.checked(columns["data"], columns["offsets"]), ("labels", "widths", "heights")
    if any(columns[name].shape != (len(paths),) or columns[name].min(initial=0) < 0 for name in whole):
        raise ValueError("its columns do not belong together")
    if columns["labels"].max(initial=0) >= num_classes:
        raise ValueError("a label is out of range")
    try:
        reasons = {int(i): str(reason) for i, reason in parse_json(columns["reasons"].tobytes()).items()}
    except AttributeError as error:
        raise ValueError("its reasons are none") from error
    if any(not 0 <= i < len(paths) for i in reasons):
        raise ValueError("its reasons are of other files")
    return Scan(paths, columns["labels"], columns["widths"], columns["heights"], reasons)


def store_scan(path: Path, scan: Scan) -> None:
    """Write atomically; a cache that cannot be written costs the next start a scan, nothing else."""
    columns = {
        "data": scan.paths.data,
        "offsets": scan.paths.offsets,
        "labels": scan.labels,
        "widths": scan.widths,
        "heights": scan.heights,
        "reasons": np.frombuffer(json.dumps(scan.reasons).encode(), dtype=np.uint8),
    }
    with contextlib.suppress(OSError):
        write_columns(path, columns)


@dataclass(frozen=True)
class InShards:
    """Where the images of a scan lie, if they are members of shards."""

    paths: PathTable  # of the shards
    shards: np.ndarray  # int32 [N], which shard
    spans: np.ndarray  # int64 [N, 2], offset and bytes in it


def finish_index(
    name: str,
    root: Path | Url,
    scan: Scan,
    class_names: tuple[str, ...],
    bad_images: BadImages,
    problems: Problems,
    places: InShards | None = None,
) -> ImageIndex:
    """Make the index of a scan and deal with unusable files.

    With ``bad_images="stop"`` each of them is a problem. With ``"skip"`` its sample shows the next good file of its
    class (in the list's order, round the end); a class without any good file is a problem.
    """
    paths, widths, heights = scan.paths, scan.widths, scan.heights
    bad: list[BadImage] = []
    if scan.reasons and bad_images == "stop":
        problems.add_files(scan.bad_files(root))
    elif scan.reasons:
        source = replaced_rows(scan.labels, scan.reasons)
        for i in sorted(scan.reasons):
            bad.append(BadImage(i, paths[i], scan.reasons[i], int(source[i])))
            if source[i] < 0:
                problems.add(f"{root / paths[i]}: {scan.reasons[i]}, and its class has no good image to replace it")
        paths, widths, heights = paths.take(source), widths[source], heights[source]
        places = places and InShards(places.paths, places.shards[source], places.spans[source])
    hashed = fingerprint(paths, scan.labels, widths, heights, class_names)
    found = ImageIndex(name, root, paths, scan.labels, widths, heights, class_names, hashed, bad=tuple(bad))
    if places is None:
        return found
    return replace(found, paths=places.paths.take(places.shards), spans=places.spans, shards=places.shards)
