"""The walk over a JPEG's markers finds what a decoder that reads only a crop box may not reach, and what strangers may not be given."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlift.data.index.jpeg import is_whole, joined, plain_parts, read_frame
from fastlift.data.loading.decode import decode


def whole(data: bytes) -> bool:
    encoded = np.frombuffer(data, dtype=np.uint8)
    return is_whole(encoded, read_frame(encoded.data))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}, {"subsampling": 0}])
def test_damage_in_the_scans(options: dict[str, object], encode: Callable, make_image: Callable) -> None:
    data = encode(make_image(96, 72), quality=90, **options)
    frame = read_frame(data)
    assert (frame.channels, frame.progressive) == (3, "progressive" in options)
    assert whole(data)
    assert not whole(data[:-2])
    assert not whole(data[: len(data) * 3 // 4])
    for place in (frame.scan + 40, len(data) * 3 // 4, len(data) - 4):
        for stray in (b"\xff\x02", b"\xff\xc0", b"\xff\xd9"):
            assert not whole(data[:place] + stray + data[place:]), (place, stray)


def test_what_has_no_scan(encode: Callable, make_image: Callable) -> None:
    data = encode(make_image(96, 72).convert("L"))
    frame = read_frame(data)
    assert (frame.channels, frame.scan > 0) == (1, True)
    for cut in range(2, frame.scan + 2):
        assert not whole(data[:cut])
    assert not whole(data[: frame.scan] + b"\xff\xd9")


def test_real_files_are_whole(shared: Path) -> None:
    files = sorted((shared / "data" / "imagenet_sample").rglob("*.JPEG"))
    assert len(files) == 100
    assert all(whole(file.read_bytes()) for file in files)


def plain(data: bytes) -> bytes | None:
    parts = plain_parts(data, 96, 72)
    assert plain_parts(data, 96, 72, whole=True) == parts or parts is None
    return None if parts is None else joined(data, parts)


def test_metadata_is_cut_out_and_pixels_stay(encode: Callable, make_image: Callable) -> None:
    image, exif = make_image(96, 72), Image.Exif()
    exif[0x010F] = "Camera"
    bare = encode(image)
    full = encode(image, exif=exif, icc_profile=bytes(500), comment=b"a comment")
    for data in (bare, encode(image, progressive=True), encode(image.convert("L")), encode(image, subsampling=0)):
        assert plain(data) == data
    kept = plain(full)
    assert kept == bare
    assert np.array_equal(decode(kept), decode(full))


def test_what_is_not_certain_is_kept_from_others(
    encode: Callable, make_image: Callable, make_bad_file: Callable
) -> None:
    image = make_image(96, 72)
    data = encode(image)
    for kind in (
        "cmyk",
        "alpha",
        "webp",
        "tiff",
        "bmp",
        "gif",
        "empty",
        "truncated",
        "jpeg_header_only",
        "jpeg_stray_bytes",
    ):
        assert plain(make_bad_file(kind)) is None, kind
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(5)  # transform 0: RGB, which some take for YCbCr
    assert plain(data[:2] + adobe + data[2:]) is None
    assert plain_parts(data, 72, 96) is None  # of another size than when it was indexed
    frame = data.index(b"\xff\xc0")
    for place, value in ((frame + 1, 0xC9), (frame + 3, 0), (frame + 4, 12), (frame + 11, 0x33), (frame + 14, 0x12)):
        odd = bytearray(data)  # arithmetic codes, a header that ends too early, 12 bits, factors that few decoders know
        odd[place] = value
        assert plain(bytes(odd)) is None, place
    twice = data[:frame] + data[frame : frame + 19] + data[frame:]
    assert plain(twice) is None


def test_segments_without_a_length_are_not_plain(encode: Callable, make_image: Callable) -> None:
    """A stranger's reader of EXIF data takes eight from a length that it does not look at."""
    data = encode(make_image(96, 72))
    for length in (0, 1, 2, 7):
        assert plain(data[:2] + b"\xff\xe1" + length.to_bytes(2, "big") + b"Exif\0\0" + data[2:]) is None
