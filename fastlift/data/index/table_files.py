"""Files of tables: CSV and TSV, JSON lines, parquet (by pyarrow), read in blocks of rows, however large."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fastlift.data.index.lines import line_blocks
from fastlift.data.index.problems import Problems
from fastlift.data.index.tables import Columns, Gathered, Table, choose_columns
from fastlift.errors import UserError

_ROWS = 2**14
_SEPARATORS = ",;\t|"
_LOOKED_AT = 200  # rows, for the message where no column of labels is found
_TEXTS = ("string", "large_string", "string_view")  # what pyarrow calls them
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
Rows = Iterator[tuple[list[Any], list[Any], "list[Any] | None", int]]


def kind_of(file: str | Path) -> str:
    """Which reader takes a file, by its ending (and .gz): ``csv``, ``jsonl``, ``parquet``; empty for none."""
    name = str(file).lower().partition("?")[0].removesuffix(".gz")
    endings = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
    return next((kind for ending, kind in endings.items() if name.endswith(ending)), "")


def read_table(file: Path, asked: Columns, problems: Problems) -> tuple[Table, np.ndarray, Columns]:
    """A table, the line (or row) of each of its images for messages, and which columns were read.

    Raises:
        UserError: the file cannot be read as what its ending says, columns are not found, several labels for an image.
    """
    columns, rows = _READERS[kind_of(file)](file, asked)
    gathered = Gathered(file.name, problems)
    for images, labels, splits, first in rows:
        gathered.add(images, labels, splits, first)
    table, numbers = gathered.table()
    if not len(table.paths) and not problems.total:
        problems.add(f"{file.name}: no rows")
    return table, numbers, columns


def _lines(file: Path) -> Iterator[str]:
    for block in line_blocks(file):
        text = block.decode("utf-8", "surrogateescape")
        yield from (f"{line}\n" for line in text[:-1].split("\n"))


def _read_csv(file: Path, asked: Columns) -> tuple[Columns, Rows]:
    lines = _lines(file)
    header = next((line for line in lines if line.strip()), "")
    if not header:
        raise UserError(f"{file} is empty")
    mark, names = _header(header, asked, file)
    reader = csv.reader(lines, delimiter=mark)
    try:
        columns = choose_columns(names, asked, str(file))
    except UserError as error:
        raise _better_told(error, names, reader, file) from None
    return columns, _csv_rows(reader, [names.index(name) for name in columns if name is not None], len(names), file)


def _header(line: str, asked: Columns, file: Path) -> tuple[str, list[str]]:
    """The separator and the names of the columns; raises UserError where the first line is none."""
    ways = {mark: [name.strip() for name in next(csv.reader([line], delimiter=mark))] for mark in _SEPARATORS}
    known = {mark: sum(name in names for name in asked if name) for mark, names in ways.items()}
    mark = max(_SEPARATORS, key=lambda one: (known[one], len(ways[one])))
    names = ways[mark]
    if any(name.lower().endswith(_ENDINGS) for name in names):
        raise UserError(
            f"{file}: its first line is an image ({line.strip()[:100]}): put a line with the names of the columns before it, "
            "such as path,label"
        )
    if len(names) < 2:
        raise UserError(
            f"{file}: one column ({line.strip()[:100]}): columns are told apart by commas, semicolons, tabs or |, and a "
            "table has at least two, such as path,label"
        )
    return mark, names


def _csv_rows(reader: Any, places: list[int], count: int, file: Path) -> Rows:
    first, filled = 2, filter(None, reader)  # without blank lines
    while True:
        try:
            rows = list(itertools.islice(filled, _ROWS))
        except csv.Error as error:
            raise UserError(f"{file} line {reader.line_num + 1} cannot be read: {error}") from None
        if not rows:
            return
        if any(len(row) != count for row in rows):
            number = next(first + k for k, row in enumerate(rows) if len(row) != count)
            wrong = len(rows[number - first])
            raise UserError(
                f"{file} line {number}: {wrong} fields where the header has {count}; a field with a separator in it stands "
                "between double quotes"
            )
        image, label, *split = ([row[place] for row in rows] for place in places)
        yield image, label, split[0] if split else None, first
        first += len(rows)


def _better_told(error: UserError, names: list[str], reader: Any, file: Path) -> UserError:
    """Why no column of labels is found, where columns of 0 and 1 stand for several labels an image."""
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows.extend(itertools.islice(reader, _LOOKED_AT))
    columns = {name: {row[k] for row in rows if k < len(row)} for k, name in enumerate(names)}
    flags = [name for name, values in columns.items() if values and values <= {"0", "1", "0.0", "1.0", "True", "False"}]
    if len(flags) < 2 or "--label-column" not in str(error):
        return error
    return UserError(
        f"{file}: the columns {', '.join(flags[:3])}{', ...' if len(flags) > 3 else ''} tell yes or no for each class: "
        "fastlift trains on one label an image and reads it from one column: make one with the name of its class"
    )


def _read_jsonl(file: Path, asked: Columns) -> tuple[Columns, Rows]:
    import msgspec

    decode = msgspec.json.Decoder(dict[str, Any]).decode
    lines = enumerate(_lines(file), start=1)

    def entries() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in lines:
            if line.strip():
                try:
                    yield number, decode(line.encode("utf-8", "surrogateescape"))
                except msgspec.MsgspecError as error:
                    raise UserError(f"{file} line {number} is no JSON object: {error}") from None

    found = entries()
    number, head = next(found, (0, None))
    if head is None:
        raise UserError(f"{file} is empty")
    columns = choose_columns(list(head), asked, str(file))
    return columns, _object_rows(itertools.chain([(number, head)], found), columns)


def _object_rows(entries: Iterator[tuple[int, dict[str, Any]]], columns: Columns) -> Rows:
    assert columns.image is not None
    assert columns.label is not None
    while block := list(itertools.islice(entries, _ROWS)):
        images, labels = ([entry.get(name) for _, entry in block] for name in (columns.image, columns.label))
        splits = None if columns.split is None else [entry.get(columns.split) for _, entry in block]
        yield images, labels, splits, block[0][0]


def _read_parquet(file: Path, asked: Columns) -> tuple[Columns, Rows]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: parquet files are read by pyarrow: pip install 'fastlift[parquet]'") from None
    try:
        opened = pyarrow.parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file} cannot be read as parquet: {error}") from None
    columns = choose_columns(opened.schema_arrow.names, asked, str(file))
    kind = opened.schema_arrow.field(columns.image).type
    if str(kind.value_type if pyarrow.types.is_dictionary(kind) else kind) not in _TEXTS:
        raise UserError(
            f"{file}: the column {columns.image!r} holds no paths ({str(kind)[:60]}): images inside of parquet files are read "
            "with --dataset huggingface"
        )
    return columns, _batches(opened, columns, file)


def _batches(opened: Any, columns: Columns, file: Path) -> Rows:
    import pyarrow

    first = 1
    names = [name for name in columns if name is not None]
    batches = opened.iter_batches(batch_size=_ROWS, columns=names)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{file} cannot be read as parquet, after {first - 1:,} rows: {error}") from None
        if batch is None:
            return
        image, label, *split = (batch.column(name).to_pylist() for name in names)
        yield image, label, split[0] if split else None, first
        first += len(image)


_READERS: dict[str, Callable[[Path, Columns], tuple[Columns, Rows]]] = {
    "csv": _read_csv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}


def told_columns(columns: Columns) -> str:
    """Which columns were read, in words."""
    named = zip(("images", "labels", "splits"), columns, strict=True)
    return ", ".join(f"{what} in {name!r}" for what, name in named if name is not None)
