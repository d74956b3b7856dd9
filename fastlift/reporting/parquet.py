"""Predictions as a Parquet file: some thousand records at a time are files of their own, which become one at the end.

A Parquet file is read by its end, so one that a kill cut short is lost. Hence the parts, each of which is whole or not there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastlift.errors import UserError
from fastlift.models.prediction.result import Prediction
from fastlift.reporting.predictions import columns, row
from fastlift.system.files import write_atomically
from fastlift.system.printing import printable

_ROWS, _SECONDS = 16_384, 60.0  # of a part: at most as many, and at most so long in memory


def check_parquet() -> None:
    """Raise UserError where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("Parquet files need pyarrow: pip install 'fastlift[parquet]'") from None


class ParquetFile:
    """Parts beside the file, then the file; see ``predictions.Records``."""

    def __init__(self, path: Path, parts: Path, top: int) -> None:
        """Go on with the parts that are there.

        Raises:
            UserError: a part cannot be read.
        """
        self._path, self._folder, self._top = path, parts, top
        self._schema = _schema(top)
        parts.mkdir(exist_ok=True)
        self._parts = sorted(parts.glob("*.parquet"))
        self.done = self.problems = 0
        self._last, self._kept = "", list[Prediction]()
        for part in self._parts:
            table = self._read(part, ["path", "problem"])
            self.done += len(table)
            self.problems += len(table) - table["problem"].null_count
            self._last = table["path"][-1].as_py()
        self._since = time.monotonic()

    def follows(self, image: str) -> bool:
        return self._last == _text(image)

    def write(self, predictions: Sequence[Prediction]) -> None:
        self._kept += predictions
        if len(self._kept) >= _ROWS or time.monotonic() - self._since > _SECONDS:
            self.flush()

    def finish(self) -> None:
        self.flush()
        write_atomically(self._path, self._join)

    def close(self) -> None:
        """No file stays open between calls."""

    def flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._since = time.monotonic()
        if not self._kept:
            return
        rows = [
            [_text(value) if isinstance(value, str) else value for value in row(one, self._top)] for one in self._kept
        ]
        arrays = [
            pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), self._schema.types, strict=True)
        ]
        part = self._folder / f"{len(self._parts):08}.parquet"
        write_atomically(part, partial(pq.write_table, pa.Table.from_arrays(arrays, schema=self._schema)))
        self._kept.clear()  # first: a signal in between must not have them written twice
        self._parts.append(part)

    def _join(self, path: Path) -> None:
        import pyarrow.parquet as pq

        with pq.ParquetWriter(path, self._schema) as writer:
            for part in self._parts:
                writer.write_table(self._read(part))

    def _read(self, part: Path, only: list[str] | None = None) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(part).read(only)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{part} cannot be read ({error}); --overwrite starts again") from None


def _schema(top: int) -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.float64() if name.startswith("probability") else pa.string()) for name in columns(top)])


def _text(value: str) -> str:
    """Bytes of file names that are no Unicode as their escapes: Parquet's text is UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return printable(value)
    return value
