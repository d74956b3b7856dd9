"""Text files of the data path (lists, class names, annotations), plain or gzipped: read in blocks, however large.

What is read comes from strangers: a block at a time is in memory, so that neither two million lines nor a file without
line ends nor a bomb of a few packed KiB takes more than it holds.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from fastlift.data.stores.download import is_html
from fastlift.errors import UserError

BLOCK_BYTES = 2**22
LONGEST_LINE = 2**16  # sixteen times the longest path that Linux opens
MOST_LINES = 2**26  # of a list; each takes some twenty bytes beside its path
MOST_NAMES = 2**22  # of classes
LARGEST_TEXT = 2**29  # of a file that is read as a whole; iNaturalist's annotations have two fifths of that


def line_blocks(path: Path, most: int = MOST_LINES) -> Iterator[bytes]:
    r"""The content in blocks of whole lines, each of which ends with ``\n``, whatever line ends the file has.

    Raises:
        UserError: no such file, one that cannot be read, UTF-16, a line longer than any list's, or more lines than ``most``.
    """
    rest, number = b"", 0
    for chunk in _chunks(path):
        rest += chunk
        # A carriage return that is the last byte may belong to a line feed of the next chunk.
        cut = max(rest.rfind(b"\n"), rest.rfind(b"\r", 0, len(rest) - 1)) + 1
        block, rest = _unix(rest[:cut]), rest[cut:]
        number += block.count(b"\n")
        if len(rest) > LONGEST_LINE:
            raise UserError(f"list file {path} cannot be used: line {number + 1} is longer than {LONGEST_LINE:,} bytes")
        if number > most:
            raise UserError(f"list file {path} cannot be used: it has more than {most:,} lines")
        if block:
            yield block
    if rest:
        yield _unix(rest if rest.endswith((b"\n", b"\r")) else rest + b"\n")


def content_digest(path: Path) -> bytes:
    """SHA-256 of the content: what a list's scan is kept under. Raises as ``line_blocks``."""
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.digest()


def read_text(path: Path) -> str:
    """The whole of a file; bytes that are no UTF-8 stay as they are, since file names may hold any.

    Raises as ``line_blocks``, and UserError for a file that is larger than such files are.
    """
    parts, size = [], 0
    for chunk in _chunks(path):
        size += len(chunk)
        if size > LARGEST_TEXT:
            raise UserError(f"list file {path} cannot be used: it holds more than {LARGEST_TEXT:,} bytes")
        parts.append(chunk)
    return b"".join(parts).decode("utf-8", "surrogateescape")


def read_lines(path: Path) -> list[str]:
    """All lines of a file that is a list of names, without those at its end that are empty. Raises as ``line_blocks``."""
    text = b"".join(line_blocks(path, MOST_NAMES)).decode("utf-8", "surrogateescape")
    return text.rstrip().split("\n")  # ``str.splitlines`` takes more for a line end, which file names may hold


def _unix(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block


def _chunks(path: Path) -> Iterator[bytes]:
    """The unpacked content without a byte order mark."""
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file, and it is read more than once"
            raise UserError(f"list file {path} cannot be read: it is {kind}")
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            first = True
            while chunk := stream.read(BLOCK_BYTES):
                yield _checked_begin(chunk, path) if first else chunk
                first = False
    except FileNotFoundError as error:
        raise UserError(f"list file {path} does not exist") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"list file {path} cannot be read: {error}") from error


def _checked_begin(chunk: bytes, path: Path) -> bytes:
    """The first chunk without a byte order mark; UserError where it is that of another kind of file."""
    if chunk[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"list file {path} is UTF-16: save it as UTF-8")
    if is_html(chunk[:64]):
        raise UserError(f"list file {path} is an HTML page (a download of the wrong address?): get the file itself")
    return chunk.removeprefix(b"\xef\xbb\xbf")
