"""Rows of results in a JSON file that is whole after every row, however the process ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastlift.system.files import read_json

Row = dict[str, Any]
PART = ".part"


class Rows:
    """The rows of one file: ``{"card": .., "rows": [..]}``, one row a line.

    Args:
        path: the file; rows that are in it stay.
        head: what stands above the rows: the card, its rates, versions.
    """

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self.path = path
        self.rows: list[Row] = read_rows(path)
        self._head = json.dumps(head, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        self._lines = [_line(row) for row in self.rows]

    def add(self, row: Row) -> None:
        """Append a row and write the file anew, whole or not at all.

        Raises:
            ValueError: a number in it is not finite, which JSON has no word for; nothing is changed then.
        """
        self._lines.append(_line(row))
        self.rows.append(row)
        # What a killed process has written stays, and there may be a thousand rows: nothing waits for the disk.
        part = self.path.with_name(f".{self.path.name}{PART}")
        lines = ",\n".join(self._lines)
        part.write_text(f'{self._head},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")
        part.replace(self.path)

    def of(self, part: str) -> list[Row]:
        """The rows of a part."""
        return [row for row in self.rows if row["part"] == part]


def sweep(folder: Path) -> None:
    """Delete what killed processes left half-written."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def _line(row: Row) -> str:
    return f"  {json.dumps(row, ensure_ascii=False, allow_nan=False)}"


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none where it is not there."""
    return list(read_json(path)["rows"]) if path.is_file() else []


def failed(rows: Iterable[Row]) -> list[Row]:
    """Rows of what went wrong."""
    return [row for row in rows if "error" in row]
