"""The structure of a JPEG file.

Its frame header, whether its scans run to the end without a stray marker, and the file without what decoding does not need.

Source: ITU-T T.81, annex B.
"""

from typing import NamedTuple

import numpy as np

SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # frame headers
STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a segment
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_COMMON_SOF = frozenset((0xC0, 0xC1, 0xC2))  # baseline, extended, progressive: Huffman codes, no differences
_SCAN, _END, _JFIF, _ADOBE = 0xDA, 0xD9, 0xE0, 0xEE
_NEEDED = frozenset((*_COMMON_SOF, 0xC4, 0xDB, 0xDD, _JFIF, _ADOBE))  # frame, tables, restarts, what tells colours
_NOT_NEEDED = frozenset((*range(0xE0, 0xF0), 0xFE)) - _NEEDED  # metadata, comments
_BETWEEN_SCANS = frozenset((0xC4, 0xDA, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)))  # tables, scans, comments, applications'
_IN_SCAN = np.zeros(256, dtype=bool)  # what may follow 0xFF there: a stuffed zero, restarts, fill
_IN_SCAN[[0x00, 0xFF, *range(0xD0, 0xD8)]] = True
# Luma's sampling beside chroma of 1 x 1, as the frame header has it.
_COMMON_SAMPLING = frozenset((0x11, 0x21, 0x22, 0x12, 0x41, 0x42, 0x24))


class Frame(NamedTuple):
    """What stands before the first scan."""

    channels: int  # 0 where there is no frame header
    width: int
    height: int
    progressive: bool
    scan: int  # where the marker of the first scan is; 0 where there is none
    segments: tuple[tuple[int, int, int], ...]  # marker, start and end of each before the scan


def read_frame(data: bytes | memoryview) -> Frame:
    """Walk over the segments to the first scan; never raises."""
    channels, width, height, progressive, position = 0, 0, 0, False, 2
    segments: list[tuple[int, int, int]] = []
    scan = 0
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in STANDALONE:
            position += 2
        elif marker == _SCAN:
            scan = position
            break
        elif marker == _END:
            break
        else:
            if marker in SOF:
                height, width = (int.from_bytes(data[position + k : position + k + 2], "big") for k in (5, 7))
                channels, progressive = data[position + 9], marker in _PROGRESSIVE
            start, position = position, _after_segment(data, position)
            segments.append((marker, start, position))
    return Frame(channels, width, height, progressive, scan, tuple(segments))


def _after_segment(data: bytes | memoryview, position: int) -> int:
    return position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def is_whole(encoded: np.ndarray, frame: Frame) -> bool:
    """Whether nothing in the scans of a JPEG, uint8 [n], could make a decoder stop; False also where that is not certain.

    A decoder that is asked for a crop box may never come to the place where one that decodes the whole image fails.
    """
    if not frame.scan or encoded[-2] != 0xFF or encoded[-1] != _END:
        return False
    data = encoded.data
    inside = _after_segment(data, frame.scan)
    at = np.flatnonzero(encoded[inside:-2] == 0xFF) + inside
    stray = at[~_IN_SCAN[encoded[at + 1]]]
    if len(stray) and not frame.progressive:
        return False
    for position in stray.tolist():
        if position < inside:
            continue  # within the segment that went before
        if data[position + 1] not in _BETWEEN_SCANS:
            return False
        inside = _after_segment(data, position)
    return True


Ranges = tuple[tuple[int, int], ...]  # start and end of parts of a file, in order


def plain_parts(data: bytes, width: int, height: int, *, whole: bool = False) -> Ranges | None:
    """What a decoder needs of a JPEG of this size that every decoder makes the same pixels of: all but its metadata.

    None for everything that is not certain to be one: other formats, damage, a size that changed, four channels, RGB or
    unusual sampling, rare codes. What is left was checked segment by segment, so that a decoder which cannot be trusted with
    other bytes may have it; metadata (EXIF, thumbnails, profiles) is cut out because some decoders die of it when it is damaged.

    Args:
        whole: its scans are known to be whole, since somebody looked; then only what stands before them is walked over.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    frame = read_frame(data)
    if frame.channels not in (1, 3) or (frame.width, frame.height) != (width, height) or not frame.scan:
        return None
    markers = [marker for marker, _, _ in frame.segments]
    if not _NEEDED.issuperset(set(markers) - _NOT_NEEDED) or sum(marker in SOF for marker in markers) != 1:
        return None
    if any(end - start < 4 for _, start, end in frame.segments) or not all(
        _is_common(data[start:end], frame.channels) for _, start, end in frame.segments
    ):
        return None
    if not whole and not is_whole(np.frombuffer(data, dtype=np.uint8), frame):
        return None
    needed = [(start, end) for marker, start, end in frame.segments if marker in _NEEDED]
    return _without_gaps([(0, 2), *needed, (frame.scan, len(data))])


def _without_gaps(parts: list[tuple[int, int]]) -> Ranges:
    """Parts that follow one another as one."""
    kept = [parts[0]]
    for start, end in parts[1:]:
        if start == kept[-1][1]:
            kept[-1] = (kept[-1][0], end)
        else:
            kept.append((start, end))
    return tuple(kept)


def joined(data: bytes, parts: Ranges) -> bytes:
    """Parts of a file in one; without a copy where that is the whole file."""
    return data if parts == ((0, len(data)),) else b"".join(data[start:end] for start, end in parts)


def _is_common(segment: bytes, channels: int) -> bool:
    """Whether a frame header states 8 bits, and sampling and colours that all decoders know; True for other segments."""
    if segment[1] == _ADOBE:
        return segment[4:9] != b"Adobe" or channels == 1 or segment[-1] == 1  # not RGB
    if segment[1] not in SOF:
        return True
    if len(segment) != 10 + 3 * channels or segment[4] != 8:
        return False
    identities, samplings = segment[10::3], segment[11::3]
    if channels == 1:
        return all(1 <= factor <= 4 for factor in (samplings[0] >> 4, samplings[0] & 15))
    return identities != b"RGB" and samplings[0] in _COMMON_SAMPLING and samplings[1:] == b"\x11\x11"
