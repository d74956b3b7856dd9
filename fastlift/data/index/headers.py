"""Width and height of an encoded image from its first bytes, and whether the file looks whole.

Reads a few KiB a file. What is accepted: JPEG, PNG, WebP, BMP, TIFF, whatever the file is called. Everything else
(text, HTML, GIF, AVIF, ...) is refused by name, since not every backend can decode it.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple

from fastlift.data.index.jpeg import SOF, STANDALONE
from fastlift.data.index.pillow import open_image, plain_words

# Pillow's own limit against decompression bombs; both backends keep to it.
MAX_PIXELS = 178_956_970
MAX_BYTES = 4 * MAX_PIXELS  # of a file: what the largest image takes without any compression
# Not blocking: to open a named pipe would wait for its writer.
READ_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_HEAD_BYTES = 4096
_STRAY_BYTES = 2**16  # between the segments of a JPEG; Pillow walks over them byte by byte, at 4 MB a second
Read = Callable[[int, int], bytes]  # (offset, count) -> bytes


class Header(NamedTuple):
    """Size in pixels as stored, or (0, 0) and the reason why the file cannot be used."""

    width: int
    height: int
    reason: str


def bad(reason: str) -> Header:
    """That of a file that cannot be used."""
    return Header(0, 0, reason)


def is_shortage(error: OSError) -> bool:
    """Whether this process or machine has no more of something, open files or memory: no fault of the file."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def read_header(path: str) -> Header:
    """Look at one file; raises OSError for a shortage, of open files say, but never for a bad file."""
    try:
        descriptor = os.open(path, READ_FLAGS)
    except FileNotFoundError:
        return bad("missing")
    except OSError as error:
        if is_shortage(error):
            raise
        return bad(f"cannot be opened ({error.strerror})")
    except ValueError:
        return bad("cannot be opened (a null character in its path)")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return bad("is a folder" if stat.S_ISDIR(status.st_mode) else "is no regular file")
        return header_of(status.st_size, lambda offset, count: os.pread(descriptor, count, offset))
    except OSError as error:
        if is_shortage(error):
            raise
        return bad(f"cannot be read ({error.strerror})")
    finally:
        os.close(descriptor)


def read_header_bytes(data: bytes) -> Header:
    """The same for a file that is in memory."""
    return header_of(len(data), lambda offset, count: data[offset : offset + count])


def refusal(data: bytes) -> str:
    """Why a file is refused without decoding it; empty where decoding has the last word."""
    reason = _parse(len(data), lambda offset, count: data[offset : offset + count]).reason
    return "" if reason == _LOOK_CLOSER else reason


def header_of(size: int, read: Read) -> Header:
    """The same for a file of so many bytes, which ``read`` reads at any place; decoded where its first ones do not tell."""
    if size > MAX_BYTES:
        return bad(f"is too large ({size:,} bytes)")
    header = _parse(size, read)
    if header.reason == _LOOK_CLOSER:
        header = _decode(read(0, size))
    if header.reason:
        return header
    if header.width < 1 or header.height < 1:
        return bad("has no pixels")
    if header.width * header.height > MAX_PIXELS:
        return bad(f"is too large ({header.width} x {header.height}, at most {MAX_PIXELS:,} pixels)")
    return header


_LOOK_CLOSER = "look closer"
_NO_IMAGE = "is damaged (no image in it)"


def _parse(size: int, read: Read) -> Header:
    if size == 0:
        return bad("is empty")
    head = read(0, _HEAD_BYTES)
    tail = head[-32:] if size <= len(head) else read(size - 32, 32)
    if head[:3] == b"\xff\xd8\xff":
        header = _jpeg(head, size, read)
        # Whole files end with the end marker; some carry harmless bytes after it, or stray ones between segments, which
        # only a decode tells apart from damage.
        return header if header.reason or tail[-2:] == b"\xff\xd9" else bad(_LOOK_CLOSER)
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 29:
        if tail[-8:-4] != b"IEND":
            return bad(_LOOK_CLOSER)
        if head[24] == 16:
            return bad("has 16 bits a channel, which decoders scale differently (convert it to 8)")
        width, height = struct.unpack(">II", head[16:24])
        return Header(width, height, "")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        if struct.unpack("<I", head[4:8])[0] + 8 > size:
            return bad("is truncated")
        return _webp(head)
    if head[:2] == b"BM" or head[:4] in (b"II*\0", b"MM\0*"):
        return bad(_LOOK_CLOSER)
    return bad(_foreign(head))


def _jpeg(head: bytes, size: int, read: Read) -> Header:
    """Walk over the segments to the frame header."""
    position = 2
    while position + 9 < size:
        segment = head[position : position + 10] if position + 10 <= len(head) else read(position, 10)
        if len(segment) < 10 or segment[0] != 0xFF:
            return bad(_LOOK_CLOSER if b"\xff" in read(position, _STRAY_BYTES) else _NO_IMAGE)
        marker = segment[1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in STANDALONE:
            position += 2
        elif marker in SOF:
            if segment[4] != 8:
                return bad(f"has {segment[4]} bits a channel, which decoders scale differently (convert it to 8)")
            height, width = struct.unpack(">HH", segment[5:9])
            return Header(width, height, "")
        elif marker in (0xDA, 0xD9):
            break
        else:
            position += 2 + struct.unpack(">H", segment[2:4])[0]
    return bad("is truncated" if position + 9 >= size else _LOOK_CLOSER)


def _webp(head: bytes) -> Header:
    """The three kinds of first chunk: lossy, lossless, extended."""
    kind = head[12:16]
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[26:30])
        return Header(width & 0x3FFF, height & 0x3FFF, "")
    if kind == b"VP8L" and head[20:21] == b"\x2f":
        bits = int.from_bytes(head[21:25], "little")
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, "")
    if kind == b"VP8X" and len(head) >= 30:
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        return Header(width, height, "")
    return bad(_LOOK_CLOSER)


def _decode(data: bytes) -> Header:
    """For rare formats and suspicious files: decode the whole of it."""
    from PIL import UnidentifiedImageError

    try:
        with open_image(data) as image:
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
                return bad(f"has pixels of kind {image.mode}, not 8 bits a channel (convert it)")
            if image.width * image.height <= MAX_PIXELS:
                image.load()
            return Header(image.width, image.height, "")
    except UnidentifiedImageError:
        return bad(_NO_IMAGE)
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        return bad("is truncated" if "truncated" in str(error) else f"cannot be decoded ({plain_words(error)})")


def _foreign(head: bytes) -> str:
    start = head[:256].lstrip().lower()
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "is a GIF (convert it to JPEG or PNG)"
    if head[4:8] == b"ftyp":
        return "is an AVIF or HEIF file (convert it to JPEG or PNG)"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is an HTML page, not an image (a failed download?)"
    if start and all(byte >= 32 or byte in b"\r\n\t" for byte in start):
        return "is text, not an image"
    return "is of no known image format (JPEG, PNG, WebP, BMP, TIFF)"
