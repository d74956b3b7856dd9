"""The members of tar files by their headers: names and places, nothing is extracted, no link is followed.

POSIX ustar with the long names and sizes of pax and GNU tar. Tars come from strangers: every number is checked before
anything is read by it, and whatever is no plain file (links, devices, folders, sparse files) is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

Read = Callable[[int, int], bytes]  # (offset, count) -> bytes, fewer only where the file ends

_BLOCK = 512
_LONGEST_NAME = 2**16  # bytes of a pax or GNU header that holds names
_PLAIN, _LONG_NAME, _LONG_LINK, _PAX, _PAX_ALL, _SPARSE = b"0\x007", b"L", b"K", b"x", b"g", b"S"
_WITHOUT_CONTENT = b"123456"  # links, devices, folders, pipes: whatever size they state


class TarError(ValueError):
    """What lies there is no whole tar; the message is the reason, to follow the file's name."""


class Member(NamedTuple):
    """A plain file in a tar."""

    name: str  # bytes that are no UTF-8 as surrogates
    offset: int  # of its content
    size: int


class _Header(NamedTuple):
    kind: bytes
    name: bytes
    size: int
    continued: bool  # GNU's sparse files: another block of their map follows


def members(size: int, read: Read) -> Iterator[Member]:
    """The plain files of a tar of ``size`` bytes, in order; raises TarError where it is damaged or cut."""
    at, name, real_size, sparse = 0, None, None, False
    while True:
        block = read(at, _BLOCK)
        if len(block) < _BLOCK:
            raise TarError("is truncated (it ends without the mark of a tar's end)")
        if not any(block):
            return
        header = _header(block, at)
        content = at + _BLOCK
        if header.kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_ALL):
            if header.size > _LONGEST_NAME:
                raise TarError(f"has a header of {header.size:,} bytes at byte {at}")
            data = _whole(read, content, header.size)
            if header.kind == _LONG_NAME:
                name = data.rstrip(b"\0")
            elif header.kind == _PAX:
                records = _pax_records(data, at)
                name, real_size = records.get(b"path", name), _pax_size(records, at)
                sparse = any(key.startswith(b"GNU.sparse") for key in records)
            at = _after(content, header.size)
            continue
        count = header.size if real_size is None or header.kind in _WITHOUT_CONTENT else real_size
        while header.continued:
            block = _whole(read, content, _BLOCK)
            content += _BLOCK
            header = header._replace(continued=bool(block[504]))
        if content + count > size:
            raise TarError(f"is truncated (a member at byte {at} ends after the file)")
        if header.kind in _PLAIN and not sparse and not (full := name or header.name).endswith(b"/"):
            yield Member(full.decode("utf-8", "surrogateescape"), content, count)
        at, name, real_size, sparse = _after(content, count), None, None, False


def _header(block: bytes, at: int) -> _Header:
    stated = _number(block[148:156], at)
    # Some old programs summed the bytes as signed ones.
    rest = block[:148] + b" " * 8 + block[156:]
    if stated != sum(rest) and stated != sum(rest) - 256 * sum(byte > 127 for byte in rest):
        raise TarError("is no tar file" if at == 0 else f"is damaged at byte {at}")
    name, kind, size = block[:100].split(b"\0", 1)[0], block[156:157], _number(block[124:136], at)
    magic = block[257:263]
    if magic == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    if kind in _WITHOUT_CONTENT:
        size = 0
    return _Header(kind, name, size, kind == _SPARSE and bool(block[482]))


def _number(field: bytes, at: int) -> int:
    """Octal text, or GNU's binary form of large ones."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    if not text.isdigit() or b"8" in text or b"9" in text:
        raise TarError("is no tar file" if at == 0 else f"is damaged at byte {at}")
    return int(text, 8)


def _pax_records(data: bytes, at: int) -> dict[bytes, bytes]:
    r"""Lines of ``length key=value\n``, where the length counts the line."""
    records, start = {}, 0
    while start < len(data) and data[start] != 0:
        digits = data[start : start + 20].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        line = data[start : start + length]
        key, equals, value = line[len(digits) + 1 : -1].partition(b"=")
        if length <= len(digits) + 2 or len(line) < length or line[-1:] != b"\n" or not equals:
            raise TarError(f"is damaged at byte {at} (a pax header)")
        records[key] = value
        start += length
    return records


def _pax_size(records: dict[bytes, bytes], at: int) -> int | None:
    value = records.get(b"size")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 19:
        raise TarError(f"is damaged at byte {at} (a pax header)")
    return int(value)


def _whole(read: Read, offset: int, count: int) -> bytes:
    data = read(offset, count)
    if len(data) < count:
        raise TarError(f"is truncated (at byte {offset})")
    return data


def _after(content: int, size: int) -> int:
    return content + -(-size // _BLOCK) * _BLOCK
