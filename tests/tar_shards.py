"""WebDataset shards of the images of a list, as others' programs write them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

Members = Iterable[tuple[str, bytes]]


def write_tar(path: Path, members: Members, form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def labelled_by_number(key: str, image: bytes, label: int) -> Members:
    return [(f"{key}.jpg", image), (f"{key}.cls", str(label).encode())]


def labelled_by_name(key: str, image: bytes, label: int) -> Members:
    return [(f"{key}.json", json.dumps({"label": f"thing {label}", "width": 1}).encode()), (f"{key}.jpeg", image)]


def write_shards(
    root: Path,
    lines: Iterable[str],
    images: Path,
    *,
    shards: int = 3,
    name: str = "{split}-{number:06d}.tar",
    splits: Iterable[str] = ("train", "val"),
    members: Callable[[str, bytes, int], Members] = labelled_by_number,
) -> Path:
    """Shards of the files of list lines, the same for each split; neighbours lie in the same shard."""
    rows = [line.rsplit(" ", 1) for line in lines]
    for split in splits:
        for number in range(shards):
            part = rows[len(rows) * number // shards : len(rows) * (number + 1) // shards]
            content = [
                member
                for row, (path, label) in enumerate(part)
                for member in members(f"{number:03d}{row:05d}", (images / path).read_bytes(), int(label))
            ]
            write_tar(root / name.format(split=split, number=number), content)
    return root
