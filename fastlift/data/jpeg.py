"""The structure of a JPEG file: its frame header, and whether its scans run to the end without a stray marker.

Source: ITU-T T.81, annex B.
"""

from typing import NamedTuple

import numpy as np

SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # frame headers
STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a segment
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_SCAN, _END = 0xDA, 0xD9
_BETWEEN_SCANS = frozenset((0xC4, 0xDA, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)))  # tables, scans, comments, applications'
_IN_SCAN = np.zeros(256, dtype=bool)  # what may follow 0xFF there: a stuffed zero, restarts, fill
_IN_SCAN[[0x00, 0xFF, *range(0xD0, 0xD8)]] = True


class Frame(NamedTuple):
    """What stands before the first scan."""

    channels: int  # 0 where there is no frame header
    progressive: bool
    scan: int  # where the marker of the first scan is; 0 where there is none


def read_frame(data: bytes | memoryview) -> Frame:
    """Walk over the segments to the first scan; never raises."""
    channels, progressive, position = 0, False, 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in STANDALONE:
            position += 2
        elif marker == _SCAN:
            return Frame(channels, progressive, position)
        elif marker == _END:
            break
        else:
            if marker in SOF:
                channels, progressive = data[position + 9], marker in _PROGRESSIVE
            position = _after_segment(data, position)
    return Frame(channels, progressive, 0)


def _after_segment(data: bytes | memoryview, position: int) -> int:
    return position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def is_whole(encoded: np.ndarray, frame: Frame) -> bool:
    """Whether nothing in the scans of a JPEG, uint8 [n], could make a decoder stop; False also where that is not certain.

    A decoder that is asked for a window may never come to the place where one that decodes the whole picture fails.
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
