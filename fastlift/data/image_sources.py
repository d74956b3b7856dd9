"""Images by the places where people say they are: files, folders, patterns, lists and shards, one after another.

Nothing is opened but lists and shards. Places are checked when they are given; what they hold is found on the way, in an order
that is the same every time. Of a folder the names of one level are in memory, of a shard nothing but its headers are read.
"""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastlift.data.datasets.folder import images_in
from fastlift.data.datasets.layout import IMAGE_ENDINGS
from fastlift.data.datasets.webdataset import expand
from fastlift.data.index.leftovers import is_leftover
from fastlift.data.index.tars import TarError, members
from fastlift.data.stores.random_access import opened
from fastlift.data.stores.url import Url, is_url
from fastlift.errors import UserError

_TOLD = 10
_LOOKED_AT = 100  # of a list: where none of the first ones is there, it was made for another folder


class FoundImage(NamedTuple):
    """Where an image lies, or why there is none."""

    name: str  # what it is called: its path; of a shard's member SHARD/MEMBER
    path: str  # of the file, or of the shard
    span: tuple[int, int] | None = None  # of a shard's member: offset and bytes
    problem: str = ""  # of a shard that cannot be read to its end: why
    store: str = ""  # the URL that the path is below, of an image that is not on this machine


class ImageSources:
    """Iterates over the images of some places, in their order; again from the start each time."""

    def __init__(self, places: Sequence[str | os.PathLike[str]], lists: Sequence[Path] = ()) -> None:
        """Check what is named.

        Args:
            places: files; folders, which are searched to any depth; patterns (``photos/**/*.jpg``, whose matches with an
                image's ending are taken, and ``train-{000..099}.tar``); tar files, whose images are taken; URLs of images,
                and of folders where the store lists them (``s3://bucket/photos``, no web server does).
            lists: text files with the path or URL of an image in each line; empty lines are passed over.

        Raises:
            UserError: a place that does not exist, a pattern that nothing matches, a list that cannot be read or belongs
                elsewhere. All missing places are named, the first ten by name. A URL of a tar file.
        """
        self._places = [found for place in places for found in _matching(os.fspath(place))]
        self._folders: dict[str, Url] = {}  # in stores, which keep what they listed
        for place in filter(is_url, self._places):
            self._check_url(place)
        if missing := [place for place in self._places if not (is_url(place) or os.path.exists(place))]:
            more = f" and {len(missing) - _TOLD:,} more" if len(missing) > _TOLD else ""
            raise UserError(f"no such file or folder: {', '.join(missing[:_TOLD])}{more}")
        self._lists = list(lists)
        for file in self._lists:
            _check_list(file)

    def __iter__(self) -> Iterator[FoundImage]:
        for place in self._places:
            if place in self._folders:
                yield from _below(self._folders[place])
            elif is_url(place):
                yield _at(place)
            elif os.path.isdir(place):
                yield from (FoundImage(path, path) for path in images_in(place))
            elif place.lower().endswith(".tar"):
                yield from _in_shard(place)
            else:
                yield FoundImage(place, place)
        for file in self._lists:
            with open(file, "rb") as lines:
                yield from (_at(path) for line in lines if (path := _path_in(line)))

    def count(self) -> int | None:
        """How many images there are; None where only reading shards would tell."""
        if any(place.lower().endswith(".tar") and not os.path.isdir(place) for place in self._places):
            return None
        return sum(1 for _ in self)

    def _check_url(self, place: str) -> None:
        url = Url(place)
        if url.name.lower().endswith(".tar"):
            raise UserError(f"{url}: tar files are read on this machine alone: download it, and name the file")
        if not (url.is_web or url.name.lower().endswith(IMAGE_ENDINGS) or url.is_file()):
            self._folders[place] = url


def is_one_url(place: object) -> bool:
    """Whether a place is the URL of one image."""
    return is_url(place) and (Url(str(place)).is_web or str(place).lower().endswith(IMAGE_ENDINGS))


def _at(place: str) -> FoundImage:
    """The image at a path or a URL."""
    if not is_url(place):
        return FoundImage(place, place)
    url = Url(place)
    store, path = url.apart()
    return FoundImage(str(url), path, store=store)


def _below(folder: Url) -> Iterator[FoundImage]:
    """The images in a folder of a store."""
    for name in folder.files():
        if _is_image(name):
            yield _at(folder.below(name))


def _is_image(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith(IMAGE_ENDINGS) and not base.startswith("__") and not is_leftover(base)


def _matching(place: str) -> list[str]:
    """The place itself, or what its pattern stands for."""
    if is_url(place):
        return [place]
    if os.path.exists(place):
        return [place]
    if place.endswith(".tar") and "{" in place:
        folder, name = os.path.split(place)
        return [os.path.join(folder, one) for one in expand(name)]
    if not glob.has_magic(place):
        return [place]
    matches = sorted(glob.glob(place, recursive=True))
    if taken := [path for path in matches if path.lower().endswith((*IMAGE_ENDINGS, ".tar")) or os.path.isdir(path)]:
        # Of a/** the folders are matches too, and would give their images again.
        files = [path for path in taken if not os.path.isdir(path)]
        return files or taken
    raise UserError(f"nothing that could be an image matches {place}" if matches else f"nothing matches {place}")


def _check_list(file: Path) -> None:
    try:
        with open(file, "rb") as lines:
            paths = [path for _, line in zip(range(_LOOKED_AT), lines, strict=False) if (path := _path_in(line))]
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from None
    if not paths:
        raise UserError(f"{file} names no image: a list has the path of one in each line")
    if not any(is_url(path) or os.path.exists(path) for path in paths):
        raise UserError(
            f"none of the first {len(paths)} paths of {file} exists, such as {paths[0]}: lines hold the path of an image "
            "each, and no more; paths that are not absolute begin in the folder where the command is called"
        )


def _path_in(line: bytes) -> str:
    path = os.fsdecode(line.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n"))
    return path if path.strip() else ""


def _in_shard(shard: str) -> Iterator[FoundImage]:
    """The images in a tar file; what is wrong with it comes last, as one without an image."""
    try:
        with opened(Path(shard)) as file:
            for member in members(file.size, file.read):
                if _is_image(member.name):
                    yield FoundImage(f"{shard}/{member.name}", shard, (member.offset, member.size))
    except TarError as error:
        yield FoundImage(shard, shard, None, str(error))
    except UserError as error:
        yield FoundImage(shard, shard, None, str(error).removeprefix(f"{shard} "))
    except OSError as error:
        yield FoundImage(shard, shard, None, f"cannot be read ({error.strerror})")
