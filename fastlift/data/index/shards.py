"""The images of one WebDataset shard: members ``KEY.jpg`` (or png, webp ...) beside ``KEY.cls`` or ``KEY.json``, as columns.

Made from the headers of the tar and of the images in it; what is read of a shard that lies on a disk is a few KiB an image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from fastlift.data.index.columns import Columns
from fastlift.data.index.headers import Header, Read, header_of
from fastlift.data.index.index import PathTable
from fastlift.data.index.lists import is_file_name, is_unicode
from fastlift.data.index.tars import Member, TarError, members
from fastlift.system.files import parse_json

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
LABEL_FIELD = "label"  # of ``KEY.json``
_LARGEST_LABEL = 4096  # bytes of ``KEY.cls``
_LARGEST_JSON = 2**20
KINDS: dict[str, type[np.generic]] = {
    "data": np.uint8,  # with the offsets: names of the image members, as in ``PathTable``
    "offsets": np.int64,
    "spans": np.int64,  # [N, 2], offset and bytes of each image
    "widths": np.int32,  # [N]
    "heights": np.int32,  # [N]
    "labels": np.int64,  # [N], rows of the texts
    "texts": np.uint8,  # JSON: the labels as they stand in the shard, each once
    "reasons": np.uint8,  # JSON: row -> why the image cannot be used
}


@dataclass(frozen=True)
class ShardTable:
    """The images of a shard in their order."""

    names: PathTable
    spans: np.ndarray  # int64 [N, 2]
    widths: np.ndarray  # int32 [N]
    heights: np.ndarray  # int32 [N]
    labels: np.ndarray  # int64 [N], rows of ``texts``
    texts: tuple[str, ...]  # labels as they stand in the shard: numbers, or names of classes
    reasons: dict[int, str]

    def columns(self) -> Columns:
        """What ``of`` reads."""
        flat = {name: getattr(self, name) for name in ("spans", "widths", "heights", "labels")}
        texts, reasons = (np.frombuffer(json.dumps(said).encode(), np.uint8) for said in (self.texts, self.reasons))
        return {"data": self.names.data, "offsets": self.names.offsets, **flat, "texts": texts, "reasons": reasons}

    @classmethod
    def of(cls, columns: Columns) -> ShardTable:
        """The table of columns that were kept; raises ValueError where they do not belong together."""
        names = PathTable.checked(columns["data"], columns["offsets"])
        try:
            texts = tuple(map(str, parse_json(columns["texts"].tobytes())))
            reasons = {int(row): str(reason) for row, reason in parse_json(columns["reasons"].tobytes()).items()}
        except (AttributeError, TypeError) as error:
            raise ValueError("its labels or reasons are none") from error
        widths, heights, labels = flat = [columns[name] for name in ("widths", "heights", "labels")]
        if any(column.shape != (len(names),) or column.min(initial=0) < 0 for column in flat):
            raise ValueError("its columns do not belong together")
        if columns["spans"].shape != (len(names), 2) or columns["spans"].min(initial=0) < 0:
            raise ValueError("its places are none")
        if columns["labels"].max(initial=0) >= max(len(texts), 1) or any(not 0 <= row < len(names) for row in reasons):
            raise ValueError("its labels or reasons are of other images")
        return cls(names, columns["spans"], widths, heights, labels, texts, reasons)


@dataclass
class _Sample:
    """The members of one key."""

    key: str
    image: Member | None = None
    label: str | None = None
    problem: str = ""


@dataclass
class _Rows:
    """What is found, row by row."""

    names: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=dict)


def scan_shard(size: int, read: Read) -> tuple[ShardTable, list[str]]:
    """The images of a tar of ``size`` bytes, and what is wrong with it, to follow its name.

    A member belongs to the key before the first dot of its name; hidden ones are passed over, and so are those of keys with
    neither image nor label.
    """
    rows, problems = _Rows(), []
    try:
        for sample in _samples(size, read):
            if sample.problem:
                problems.append(f"{sample.key} {sample.problem}")
            elif sample.image is None and sample.label is not None:
                problems.append(f"{sample.key} has a label and no image")
            elif sample.image is not None and sample.label is None:
                problems.append(
                    f"{sample.key} has no label ({sample.key}.cls, or '{LABEL_FIELD}' in {sample.key}.json)"
                )
            elif sample.image is not None and sample.label is not None:
                rows.names.append(sample.image.name)
                rows.spans.append((sample.image.offset, sample.image.size))
                rows.headers.append(_header(sample.image, read))
                rows.labels.append(rows.texts.setdefault(sample.label, len(rows.texts)))
    except TarError as error:
        problems.append(str(error))
    widths, heights = (np.array([header[k] for header in rows.headers], dtype=np.int32) for k in (0, 1))
    reasons = {row: header.reason for row, header in enumerate(rows.headers) if header.reason}
    spans, labels = np.array(rows.spans, dtype=np.int64).reshape(-1, 2), np.array(rows.labels, dtype=np.int64)
    names, texts = PathTable.from_strings(rows.names), tuple(rows.texts)
    return ShardTable(names, spans, widths, heights, labels, texts, reasons), problems


def _samples(size: int, read: Read) -> Iterator[_Sample]:
    """Members that follow each other with the same key, as WebDataset groups them."""
    sample = _Sample("")
    for member in members(size, read):
        folder, slash, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        if not stem or stem.startswith("__"):  # hidden, or WebDataset's own notes
            continue
        key, kind = folder + slash + stem, ending.rpartition(".")[2].lower()
        if key != sample.key:
            yield sample
            sample = _Sample(key)
        _add(sample, member, kind, read)
    yield sample


def _add(sample: _Sample, member: Member, kind: str, read: Read) -> None:
    if not is_file_name(member.name) or not is_unicode(member.name):
        sample.key, sample.problem = repr(member.name), "is no UTF-8"
    elif kind in IMAGES:
        sample.problem = sample.problem or ("has two images" if sample.image else "")
        sample.image = member
    elif kind == "cls" or (kind == "json" and sample.label is None):
        try:
            label = _label(member, kind, read)
        except ValueError as error:
            sample.problem = sample.problem or f"has no label that can be read ({member.name}: {error})"
            return
        sample.label = label if label is not None else sample.label


def _label(member: Member, kind: str, read: Read) -> str | None:
    """A number or a class's name as text; None where a JSON file tells neither. Raises ValueError."""
    if member.size > (_LARGEST_LABEL if kind == "cls" else _LARGEST_JSON):
        raise ValueError(f"{member.size:,} bytes")
    data = read(member.offset, member.size)
    if kind == "cls":
        text = data.decode("utf-8").strip()
    else:
        value = parse_json(data)
        found = value.get(LABEL_FIELD) if isinstance(value, dict) else None
        if found is None:
            return None
        if not isinstance(found, (int, str)) or isinstance(found, bool):
            raise ValueError(f"'{LABEL_FIELD}' is neither a number nor text")
        text = str(found).strip()
    if not text or not is_unicode(text) or not text.isprintable():
        raise ValueError("neither a number nor text")
    return text


def _header(member: Member, read: Read) -> Header:
    return header_of(member.size, lambda offset, count: read(member.offset + offset, min(count, member.size - offset)))
