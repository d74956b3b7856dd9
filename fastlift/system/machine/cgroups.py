"""Control groups of this process: the folders whose limits hold for it, in version 1, version 2 and both at once.

A group's limit holds for all below it, so every limit from the process's own group up to the top counts, and the tightest
one decides. Source: the Linux kernel's documentation, admin-guide/cgroup-v1 and admin-guide/cgroup-v2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fastlift.system.machine.text import read

ROOT = Path("/")


def folders(controller: str, root: Path = ROOT) -> list[Path]:
    """Folders of the groups that this process is in for a controller (``cpu``, ``memory``), its own first, the topmost last.

    Args:
        root: where ``proc`` and the mounts are found, for looking at another tree.
    """
    found = []
    for controllers, path in _memberships(root):
        for kinds, top, point in _mounts(root):
            if kinds == controllers and (controller in kinds or not kinds):
                mounted, names = root / point.lstrip("/"), _below(path, top)
                found += [mounted.joinpath(*names[:count]) for count in range(len(names), -1, -1)]
    return found


def _memberships(root: Path) -> Iterator[tuple[frozenset[str], str]]:
    """(controllers, path of the group) of each hierarchy; version 2's has no controllers there."""
    for line in read(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            yield frozenset(filter(None, parts[1].split(","))), parts[2]


def _mounts(root: Path) -> Iterator[tuple[frozenset[str], str, str]]:
    """(controllers, group that is shown at the mount's top, where it is mounted) of each hierarchy."""
    for line in read(root / "proc/self/mountinfo").splitlines():
        mount, separator, kind = line.partition(" - ")
        fields, kinds = mount.split(), kind.split()
        if not separator or len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2":
            yield frozenset(), _unescape(fields[3]), _unescape(fields[4])
        elif kinds[0] == "cgroup":  # its options name the controllers, among others
            names = set(kinds[2].split(",")) - {"rw", "ro", "xattr", "noprefix", "clone_children"}
            yield frozenset(names), _unescape(fields[3]), _unescape(fields[4])


def _unescape(path: str) -> str:
    """Blanks and the like stand in mountinfo as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _below(path: str, top: str) -> tuple[str, ...]:
    """Names of the groups from the mount's top down to ``path``; none where the mount shows another part of the tree.

    In a container without a namespace of its own the path is the host's, and the mount shows the container's group alone.
    """
    group, shown = PurePosixPath(path), PurePosixPath(top)
    if ".." in group.parts or not group.is_relative_to(shown):
        return ()
    return group.relative_to(shown).parts
