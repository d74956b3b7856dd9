"""``advice.json`` of a run: what ``fastlift advise`` found, one file, written in one step."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fastlift.advice.record import Advice
from fastlift.errors import UserError
from fastlift.system.files import read_json, write_json


def advice_path(folder: Path) -> Path:
    """Where a run's advice lies."""
    return folder / "advice.json"


def write_advice(folder: Path, advice: Advice) -> None:
    """Write it into a run folder, atomically.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    write_json(advice_path(folder), advice.to_dict(), parents=False)


def read_advice(folder: Path) -> Advice | None:
    """The advice of a run; None where there is none.

    Raises:
        UserError: it was changed or damaged, or another version wrote it.
    """
    path = advice_path(folder)
    if not path.is_file():
        return None
    try:
        return msgspec.convert(read_json(path), Advice)
    except msgspec.ValidationError as error:
        raise UserError(
            f"{path} is no advice as this version writes it ({error}); fastlift advise writes it again"
        ) from None
