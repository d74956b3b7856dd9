"""Rows of results in a JSON file that is whole after every row, however the process ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastlift.files import read_json, write_text

Row = dict[str, Any]


class Rows:
    """The rows of one file: ``{"card": .., "rows": [..]}``, one row a line.

    Args:
        path: the file; rows that are in it stay.
        head: what stands above the rows: the card, its rates, versions.
    """

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self.path, self.head = path, head
        self.rows: list[Row] = read_rows(path)

    def add(self, row: Row) -> None:
        """Append a row and write the file anew, atomically.

        Raises:
            ValueError: a number in it is not finite, which JSON has no word for; nothing is changed then.
        """
        rows = [*self.rows, row]
        self._write(rows)
        self.rows = rows

    def of(self, part: str) -> list[Row]:
        """The rows of a part."""
        return [row for row in self.rows if row["part"] == part]

    def _write(self, rows: list[Row]) -> None:
        head = json.dumps(self.head, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False, allow_nan=False)}" for row in rows)
        write_text(self.path, f'{head},\n "rows": [\n{lines}\n ]\n}}\n')


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none where it is not there."""
    return list(read_json(path)["rows"]) if path.is_file() else []


def failed(rows: Iterable[Row]) -> list[Row]:
    """Rows of what went wrong."""
    return [row for row in rows if "error" in row]
