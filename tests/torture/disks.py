"""Real file systems in the place of the commands' folder: a tmpfs of any size, and an ext4 that loses its disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .harness import Commands

PLENTY = "size=1g,nr_inodes=100000"


class Tmpfs:
    """A tmpfs on the folder, as large as wanted; mounted where the children see it alone."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def used(self) -> dict[str, int]:
        """Pages and inodes in use."""
        found = os.statvfs(self._commands.folder)
        return {"pages": found.f_blocks - found.f_bfree, "inodes": found.f_files - found.f_ffree}

    def leave(self, what: str, free: int) -> None:
        """Make it so small that just ``free`` pages, or inodes, are left."""
        size = self.used()[what] + free
        # a size of 0 would be no limit, so an empty disk keeps a page
        option = f"nr_blocks={max(size, 1)}" if what == "pages" else f"nr_inodes={size}"
        self._commands.administer("mount", "-o", f"remount,{option}", "FOLDER")

    def give_back(self) -> None:
        """Make it large again."""
        self._commands.administer("mount", "-o", f"remount,{PLENTY}", "FOLDER")


@contextmanager
def tmpfs(commands: Commands) -> Iterator[Tmpfs]:
    """A tmpfs in the folder's place, gone afterwards."""
    commands.administer("mount", "-t", "tmpfs", "-o", PLENTY, "fastlift", "FOLDER")
    try:
        yield Tmpfs(commands)
    finally:
        commands.administer("umount", "FOLDER")
