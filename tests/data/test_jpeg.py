"""The walk over a JPEG's markers finds what a decoder of windows may not come to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastlift.data.jpeg import is_whole, read_frame


def whole(data: bytes) -> bool:
    encoded = np.frombuffer(data, dtype=np.uint8)
    return is_whole(encoded, read_frame(encoded.data))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}, {"subsampling": 0}])
def test_damage_in_the_scans(options: dict[str, object], encode: Callable, make_picture: Callable) -> None:
    data = encode(make_picture(96, 72), quality=90, **options)
    frame = read_frame(data)
    assert (frame.channels, frame.progressive) == (3, "progressive" in options)
    assert whole(data)
    assert not whole(data[:-2])
    assert not whole(data[: len(data) * 3 // 4])
    for place in (frame.scan + 40, len(data) * 3 // 4, len(data) - 4):
        for stray in (b"\xff\x02", b"\xff\xc0", b"\xff\xd9"):
            assert not whole(data[:place] + stray + data[place:]), (place, stray)


def test_what_has_no_scan(encode: Callable, make_picture: Callable) -> None:
    data = encode(make_picture(96, 72).convert("L"))
    frame = read_frame(data)
    assert (frame.channels, frame.scan > 0) == (1, True)
    for cut in range(2, frame.scan + 2):
        assert not whole(data[:cut])
    assert not whole(data[: frame.scan] + b"\xff\xd9")


def test_real_files_are_whole(shared: Path) -> None:
    files = sorted((shared / "data" / "imagenet_sample").rglob("*.JPEG"))
    assert len(files) == 100
    assert all(whole(file.read_bytes()) for file in files)
