"""Real file systems in the place of the commands' folder: a tmpfs of any size, and an ext4 that loses its disk."""

from __future__ import annotations

import os
import subprocess
import sys
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


class Ext4:
    """An ext4 in a file on the folder, whose disk can fail for real."""

    READ_ONLY = "echo 1 > /sys/fs/ext4/$(basename $(findmnt -no SOURCE FOLDER))/trigger_fs_error"
    # EXT4_IOC_SHUTDOWN without a flush of the log: what was not flushed before is lost, as in a power cut
    POWER_CUT = "import fcntl, os; fcntl.ioctl(os.open('FOLDER', os.O_RDONLY), 0x8004587D, (2).to_bytes(4, 'little'))"

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        commands.administer("truncate", "-s", "48m", "IMAGE")
        commands.administer("mkfs.ext4", "-q", "-F", "IMAGE")
        self._mount()

    def _mount(self) -> None:
        self._commands.administer("mount", "-o", "loop,errors=remount-ro", "IMAGE", "FOLDER")

    def settle(self) -> None:
        """What is there is on the disk."""
        self._commands.administer("sync", "-f", "FOLDER")

    def failure(self, kind: str) -> list[str]:
        """The program that makes the disk fail: ``read-only``, as an ext4 becomes on errors, or ``gone``."""
        words = ("sh", "-c", self.READ_ONLY) if kind == "read-only" else (sys.executable, "-c", self.POWER_CUT)
        return self._commands.named(*words)

    def repair(self) -> None:
        """Mount it again, after a look at it as a machine takes that starts."""
        self._commands.administer("umount", "FOLDER")
        self._commands.administer("e2fsck", "-fy", "IMAGE", fine=(0, 1))
        self._mount()


@contextmanager
def ext4(commands: Commands) -> Iterator[Ext4]:
    """An ext4 in the folder's place, gone afterwards.

    Raises:
        RuntimeError: there is no mkfs.ext4, or no loop device for us.
    """
    disk = Ext4(commands)
    try:
        yield disk
    finally:
        commands.administer("umount", "FOLDER")


def no_ext4(commands: Commands) -> str:
    """Why there can be no ext4 of ours; "" where there can."""
    try:
        with ext4(commands) as disk:
            subprocess.run(["which", "findmnt"], check=True, capture_output=True)
            disk.settle()
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return str(error)
    return ""


@contextmanager
def tmpfs(commands: Commands) -> Iterator[Tmpfs]:
    """A tmpfs in the folder's place, gone afterwards."""
    commands.administer("mount", "-t", "tmpfs", "-o", PLENTY, "fastlift", "FOLDER")
    try:
        yield Tmpfs(commands)
    finally:
        commands.administer("umount", "FOLDER")
