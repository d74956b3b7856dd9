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
# Images, labels, splits (where there is a column of them), and the line or row of each for messages, int64.
Rows = Iterator[tuple[list[Any], list[Any], "list[Any] | None", np.ndarray]]


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
    for block in rows:
        gathered.add(*block)
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
    above, header = next(((above, line) for above, line in enumerate(lines) if line.strip()), (0, ""))
    if not header:
        raise UserError(f"{file} is empty")
    mark, names = _header(header, asked, file)
    reader = csv.reader(lines, delimiter=mark)
    try:
        columns = choose_columns(names, asked, str(file))
    except UserError as error:
        raise _better_told(error, names, reader, file) from None
    places = [names.index(name) for name in columns if name is not None]
    return columns, _csv_rows(reader, places, len(names), above + 2, file)


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


def _csv_rows(reader: Any, places: list[int], count: int, first: int, file: Path) -> Rows:
    """The rows from the line ``first`` on, without blank lines."""
    while True:
        rows: list[list[str]] = []
        seen = reader.line_num
        try:
            rows.extend(itertools.islice(reader, _ROWS))
        except csv.Error as error:
            begun = _lines_of([*rows, []], first)[-1]
            raise UserError(
                f"{file}: the row that begins in line {begun} cannot be read: {error} (a double quote that is not closed?)"
            ) from None
        if not rows:
            return
        lines = reader.line_num - seen
        numbers = np.arange(first, first + lines) if lines == len(rows) else _lines_of(rows, first)
        first += lines
        if not all(rows):
            numbers, rows = numbers[[bool(row) for row in rows]], [row for row in rows if row]
        if any(len(row) != count for row in rows):
            number, wrong = next((numbers[k], len(row)) for k, row in enumerate(rows) if len(row) != count)
            raise UserError(
                f"{file} line {number}: {wrong} fields where the header has {count}; a field with a separator in it stands "
                "between double quotes"
            )
        image, label, *split = ([row[place] for row in rows] for place in places)
        yield image, label, split[0] if split else None, numbers


def _lines_of(rows: list[list[str]], first: int) -> np.ndarray:
    """The line that each row begins in, int64 [N], from the line ``first`` on: fields in quotes may hold line ends."""
    taken = [1 + sum(field.count("\n") for field in row) for row in rows]
    return np.cumsum([first, *taken[:-1]], dtype=np.int64)


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
        yield images, labels, splits, np.array([number for number, _ in block], dtype=np.int64)


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
        yield image, label, split[0] if split else None, np.arange(first, first + len(image))
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
