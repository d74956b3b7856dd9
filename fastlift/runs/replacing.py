"""An old run makes way for a new one in the same folder, whole or not at all.

The folder itself stays, so that it may be a mount point, and whoever has locked a file in it keeps his lock. What is in it
moves into ``.replaced``, the new ``config.json`` takes the place of the old one in a single step, which decides, and the old
files are deleted. After a kill ``recover`` goes back where nothing was decided yet, and on where it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fastlift.system.files import sweep, sync_folder, write_atomically

LOCK, DECIDES = ".lock", "config.json"
ASIDE, DISCARDED = ".replaced", ".deleted"
GIVEN = ".given-start"  # the run starts from values that it was handed, and has not kept them yet


def replace_contents(folder: Path, write_config: Callable[[], None]) -> None:
    """Leave nothing in ``folder`` but its lock and the ``config.json`` that ``write_config`` writes, atomically.

    Raises:
        OSError: a full disk, for instance; the old run is as it was.
    """
    recover(folder)
    aside = folder / ASIDE
    try:
        old = (folder / DECIDES).read_bytes()
        write_atomically(aside / DECIDES, lambda part: part.write_bytes(old))
        for name in _others(folder):
            os.rename(folder / name, aside / name)
        sync_folder(aside)
        write_config()
    except BaseException:
        recover(folder)
        raise
    _discard(folder)


def recover(folder: Path) -> None:
    """Finish what a kill cut short: the old run is back, or it is gone and the new one has begun."""
    aside, config = folder / ASIDE, folder / DECIDES
    if (aside / DECIDES).is_file() and config.is_file() and config.read_bytes() != (aside / DECIDES).read_bytes():
        _discard(folder)
    elif aside.is_dir():
        sweep(aside)
        (folder / GIVEN).unlink(missing_ok=True)  # of the new run; the old one's is in ``aside``
        for name in _others(aside):
            os.rename(aside / name, folder / name)
        if not config.is_file() and (aside / DECIDES).is_file():
            os.replace(aside / DECIDES, config)
        sync_folder(folder)
        shutil.rmtree(aside)
    shutil.rmtree(folder / DISCARDED, ignore_errors=True)


def _others(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name not in (LOCK, DECIDES, ASIDE, DISCARDED)]


def _discard(folder: Path) -> None:
    shutil.rmtree(folder / DISCARDED, ignore_errors=True)
    os.rename(folder / ASIDE, folder / DISCARDED)
    sync_folder(folder)
    shutil.rmtree(folder / DISCARDED, ignore_errors=True)
