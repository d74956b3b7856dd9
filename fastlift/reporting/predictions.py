"""Predictions as records: lines of text, of JSON or of CSV, on stdout or in a file that a killed command goes on with.

A file has a record of every image, in their order, what cannot be used among them, so that record N belongs to image N. While
it is being made, a hidden file beside it says of what, and holds the lock of who makes it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import msgspec

from fastlift.errors import UserError
from fastlift.models.prediction.result import Prediction
from fastlift.system.files import append, parse_json, refuse_device, sync_folder, try_lock
from fastlift.system.printing import printable

Format = Literal["text", "jsonl", "csv", "parquet"]
ENDINGS: dict[str, Format] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


class Records(Protocol):
    """A file of records that grows, and what it holds already."""

    done: int  # records
    problems: int  # those of images without a prediction

    def follows(self, image: str) -> bool:
        """Whether the last record is that of this image."""

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Add records; OSError where the disk is full."""

    def flush(self) -> None:
        """What was written stays whatever happens to this process."""

    def finish(self) -> None:
        """There will be no more."""

    def close(self) -> None:
        """Let go of the file, finished or not."""


def format_of(path: Path | None, asked: Format | None) -> Format:
    """The format that was asked for, else that of the file's ending, else text; UserError for an ending that tells none."""
    if asked is not None or path is None:
        return asked or "text"
    if (ending := path.suffix.lower()) in ENDINGS:
        return ENDINGS[ending]
    raise UserError(f"{path}: its ending tells no format; give --format {'|'.join(get_args(Format))}")


def columns(top: int) -> list[str]:
    """The columns of a table of predictions with so many classes."""
    numbered = [f"{what}_{number}" for number in range(1, top + 1) for what in ("class", "probability")]
    return ["path", "answer", *numbered, "problem"]


def row(prediction: Prediction, top: int) -> list[Any]:
    """The values of ``columns``; None where there is none."""
    pairs = list(zip(prediction.names, (round(value, 6) for value in prediction.probabilities), strict=True))
    filled = [*pairs, *[(None, None)] * (top - len(pairs))]
    named = [value for pair in filled for value in pair]
    return [prediction.image, prediction.answer, *named, prediction.problem or None]


def line_of(prediction: Prediction, format: Format, top: int) -> str:
    """A record as text that ends with a line end."""
    if format == "jsonl":
        return printable(json.dumps(prediction.to_dict(), ensure_ascii=False)) + "\n"
    if format == "csv":
        return csv_line(row(prediction, top))
    return printable(str(prediction)) + "\n"


def csv_line(values: Sequence[Any]) -> str:
    """A line of CSV as RFC 4180 has it, but for its end, which is a line feed."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


@dataclass(frozen=True)
class _Known:
    """What whole records a file holds."""

    records: int = 0
    problems: int = 0
    last: str = ""  # the last one: its image, or in a text the line
    end: int = 0  # bytes of them


class LineFile:
    """A file of lines; see ``Records``."""

    def __init__(self, path: Path, format: Format, top: int) -> None:
        """Go on with the whole records that are there; half a record, as a kill leaves it, goes."""
        self._path, self._format, self._top = path, format, top
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            known = _known_of(path, format)
            os.ftruncate(self._file, known.end)
            if format == "csv" and not known.end:
                append(self._file, csv_line(columns(top)).encode(), path)
        except BaseException:
            self.close()
            raise
        self.done, self.problems, self._last = known.records, known.problems, known.last

    def follows(self, image: str) -> bool:
        return self._last.startswith(f"{printable(image)}: ") if self._format == "text" else self._last == image

    def write(self, predictions: Sequence[Prediction]) -> None:
        text = "".join(line_of(one, self._format, self._top) for one in predictions)
        append(self._file, text.encode("utf-8", "surrogateescape"), self._path)

    def flush(self) -> None:
        os.fsync(self._file)

    def finish(self) -> None:
        self.flush()

    def close(self) -> None:
        os.close(self._file)


def _known_of(path: Path, format: Format) -> _Known:
    """The whole records of a file."""
    read: Callable[[bytes], tuple[str, bool]] = {"jsonl": _json_record, "csv": _csv_record, "text": _text_record}[
        format
    ]
    records = problems = end = 0
    last = b""
    for number, line in enumerate(_lines(path, quoted=format == "csv")):
        end += len(line)
        if format == "csv" and number == 0:
            continue
        last, records = line, records + 1
        try:
            problems += read(line)[1]
        except (msgspec.MsgspecError, ValueError, IndexError, csv.Error):
            raise UserError(f"{path}: record {records} is none of this format; --overwrite starts again") from None
    return _Known(records, problems, read(last)[0] if last else "", end)


def _lines(path: Path, quoted: bool) -> Iterator[bytes]:
    """The whole lines of a file; ``quoted``: those of CSV, whose fields may hold line ends between quotes."""
    kept = b""
    with open(path, "rb") as file:
        for line in file:
            kept += line
            if kept.endswith(b"\n") and not (quoted and kept.count(b'"') % 2):
                yield kept
                kept = b""


class _Stored(msgspec.Struct):
    path: str
    problem: str = ""


def _json_record(line: bytes) -> tuple[str, bool]:
    """The image of a record, and whether it has a problem."""
    stored = msgspec.json.decode(line, type=_Stored) if b"\\ud" not in line else _Stored(**_fields(json.loads(line)))
    return stored.path, bool(stored.problem)


def _fields(value: dict[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in ("path", "problem") if name in value}


def _csv_record(line: bytes) -> tuple[str, bool]:
    values = next(csv.reader(io.StringIO(line.decode("utf-8", "surrogateescape"), newline="")))
    return values[0], bool(values[-1])


def _text_record(line: bytes) -> tuple[str, bool]:
    text = line.decode("utf-8", "surrogateescape").rstrip("\n")
    return text, ": no prediction: " in text


class Unfinished:
    """The hidden file beside a file of predictions while that is being made; whoever makes it holds its lock."""

    def __init__(self, path: Path) -> None:
        """Of the file ``path``; nothing is written yet."""
        self.path = path
        self.note = path.parent / f".{path.name}.unfinished"
        self.parts = path.parent / f".{path.name}.parts"  # of formats that cannot grow
        self._lock: int | None = None

    def begin(self, asked: dict[str, Any], *, resume: bool, overwrite: bool) -> bool:
        """Make ready to write, from the start or from where a killed command left off; False where all is done.

        Args:
            asked: what the predictions depend on; it must be the same to go on.

        Raises:
            UserError: a file is there and neither is asked for; another process writes it; other things were asked for.
            OSError: the folder cannot be written.
        """
        if resume and overwrite:
            raise UserError("--resume and --overwrite contradict each other")
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder: name a file in it")
        refuse_device(self.path)
        noted = self._noted()
        begun = noted is not None
        if self.path.exists() and not begun:
            if resume and not self.note.exists():
                return False
            if not overwrite:
                what = f"{self.note} is damaged" if self.note.exists() else f"{self.path} exists"
                raise UserError(f"{what}; use --overwrite, or another --output")
        if begun and not (resume or overwrite):
            raise UserError(f"{self.path} is unfinished: --resume goes on with it, --overwrite starts again")
        os.makedirs(self.path.parent, exist_ok=True)
        lock = self._take_lock()
        if noted is not None and resume:
            self._check(noted, asked)
            return True
        # The old records first: behind a note of what is asked for now, they would pass for it.
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.parts, ignore_errors=True)
        os.ftruncate(lock, 0)
        append(lock, json.dumps(asked).encode(), self.note)
        os.fsync(lock)  # before any record: without the note, what a power cut leaves would pass for a whole file
        sync_folder(self.path.parent)
        return True

    def _noted(self) -> dict[str, Any] | None:
        """What was asked for when the file was begun; None where it was not, or the note itself was cut short."""
        try:
            value = parse_json(self.note.read_bytes())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _take_lock(self) -> int:
        self._lock = lock = os.open(self.note, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        if try_lock(lock) is False:
            self.release()
            raise UserError(f"{self.path} is being written by another process")
        return lock

    def _check(self, before: dict[str, Any], asked: dict[str, Any]) -> None:
        now = json.loads(json.dumps(asked))
        if changed := [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]:
            told = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in changed)
            raise UserError(f"{self.path} was begun with other settings ({told}); --overwrite starts again")

    def finish(self) -> None:
        """The file is whole."""
        sync_folder(self.path.parent)
        shutil.rmtree(self.parts, ignore_errors=True)
        self.note.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let others write; what is there stays to go on with."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
