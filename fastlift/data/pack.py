"""``fastlift data pack``: a data set of many files as a few tar shards, optionally with smaller images.

Many small files are slow on network shares and spinning disks; shards are read in large pieces. Shrinking to a short
side makes decoding faster too, but changes pixels (resized once more, and encoded anew), so it is off by default.
"""

import io
import tarfile
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.packed import PACK_MANIFEST, shard_name, write_manifest, write_split
from fastlift.data.index.header_scan import Progress
from fastlift.data.index.headers import read_header_bytes
from fastlift.data.index.index import ImageIndex
from fastlift.data.loading.decode import decode
from fastlift.data.loading.reading import DecodeError, read_encoded
from fastlift.errors import UserError
from fastlift.system.files import expand_user
from fastlift.system.machine import cpus

SHARD_BYTES = 2**30
_QUALITY = 95
_ROW = 5  # numbers kept of an image


@dataclass(frozen=True)
class PackResult:
    """What was written."""

    folder: str
    images: dict[str, int]  # by split
    shards: int
    bytes: int  # of all shards
    source_bytes: int  # of the images' files before
    shrunk: int  # images that were resized

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Image(NamedTuple):
    data: bytes
    extension: str
    width: int
    height: int
    source_bytes: int
    shrunk: bool


def run(
    name: str,
    output: str | Path,
    *,
    short_side: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
    **options: Any,
) -> PackResult:
    """Pack a data set into ``output``, a new folder; use it by giving that folder as the set's data root.

    Args:
        name: of the set; ``options`` as for ``load_data_set``.
        short_side: shrink images with a longer short side to this many pixels (bicubic, JPEG of quality 95).
        shard_bytes: about how large a shard grows.

    Raises:
        UserError: the folder holds a pack already, the set has no files, or an image cannot be decoded.
    """
    folder = expand_user(Path(output))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a new folder for the pack")
    if (folder / PACK_MANIFEST).exists():
        raise UserError(f"{folder} holds a pack already: choose another folder, or delete that one")
    if short_side is not None and short_side < 1:
        raise UserError(f"short side must be at least 1, got {short_side}")
    data = load_data_set(name, progress=progress, **options)
    if data.train.arrays is not None:
        raise UserError(f"{name} comes as arrays: there are no files to pack")
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    source_bytes = shrunk = 0
    for split, index in data.splits.items():
        writer = _ShardWriter(folder, split, shard_bytes)
        for i, image in enumerate(_prepared(index, short_side)):
            writer.add(image, int(index.labels[i]))
            source_bytes += image.source_bytes
            shrunk += image.shrunk
            if progress and ((i + 1) % 100 == 0 or i + 1 == len(index)):
                progress(f"pack {index.name}", i + 1, len(index))
        sizes.update(writer.close())
        write_split(folder, split, index.paths, {"labels": index.labels, **writer.columns()})
    write_manifest(folder, data, sizes, short_side)
    images = {split: len(index) for split, index in data.splits.items()}
    return PackResult(str(folder), images, len(sizes), sum(sizes.values()), source_bytes, shrunk)


def _prepared(index: ImageIndex, short_side: int | None) -> Iterator[_Image]:
    """All images in order, prepared by threads a few ahead."""
    with ThreadPoolExecutor(cpus()) as pool:
        coming = (pool.submit(_prepare, index, i, short_side) for i in range(len(index)))
        ahead = deque(islice(coming, 64))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(islice(coming, 1))


def _prepare(index: ImageIndex, i: int, short_side: int | None) -> _Image:
    try:
        data = read_encoded(index, i)
        header = read_header_bytes(data)
        if header.reason:
            raise DecodeError(header.reason)
        if short_side is None or min(header.width, header.height) <= short_side:
            return _Image(data, _extension(data), header.width, header.height, len(data), False)
        small, width, height = _shrink(decode(data), short_side)
    except DecodeError as error:
        raise UserError(f"{index.label_of(i)} {error}", exit_code=1) from error
    return _Image(small, "jpg", width, height, len(data), True)


def _shrink(pixels: np.ndarray, short_side: int) -> tuple[bytes, int, int]:
    """Resized and encoded image, its width and height."""
    from PIL import Image

    height, width = pixels.shape[:2]
    short = min(width, height)
    new_width, new_height = width * short_side // short, height * short_side // short
    buffer = io.BytesIO()
    resized = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.BICUBIC)
    resized.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue(), new_width, new_height


def _extension(data: bytes) -> str:
    starts = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp", b"BM": "bmp"}
    return starts.get(data[:2], "tif")


class _ShardWriter:
    """Writes one split's tars and notes where everything lies."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._limit = folder, split, shard_bytes
        self._tar: tarfile.TarFile | None = None
        self._shards: list[str] = []
        self._rows = array("q")  # of each image: shard, offset, bytes, width, height

    def add(self, image: _Image, label: int) -> None:
        if self._tar is None or self._tar.offset >= self._limit:
            self._close_shard()
            self._shards.append(shard_name(self._split, len(self._shards)))
            file = self._folder / self._shards[-1]
            self._tar = tarfile.open(file, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed when full
        key = f"{len(self._rows) // _ROW:09d}"
        offset = _append(self._tar, f"{key}.{image.extension}", image.data)
        _append(self._tar, f"{key}.cls", str(label).encode())
        self._rows.extend((len(self._shards) - 1, offset, len(image.data), image.width, image.height))

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()

    def close(self) -> dict[str, int]:
        """Finish; the size of each shard."""
        self._close_shard()
        return {name: (self._folder / name).stat().st_size for name in self._shards}

    def columns(self) -> dict[str, np.ndarray]:
        """Where the images lie, and their sizes."""
        shards, offsets, lengths, widths, heights = np.array(self._rows, dtype=np.int64).reshape(-1, _ROW).T
        flat = {"shards": shards, "widths": widths, "heights": heights}
        columns = {name: column.astype(np.int32) for name, column in flat.items()}
        return {**columns, "spans": np.stack([offsets, lengths], axis=1)}


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a file; gives the offset of its content."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    offset = tar.offset + len(info.tobuf(tarfile.USTAR_FORMAT))
    tar.addfile(info, io.BytesIO(data))
    return offset
