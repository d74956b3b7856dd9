"""The header scan agrees with Pillow about sizes and about what can be used; the reasons are told."""

import contextlib
import io
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fastlift.data.image_sources import FoundImage
from fastlift.data.index import headers
from fastlift.data.index.headers import read_header, read_header_bytes
from fastlift.data.loading.reading import read_encoded
from fastlift.evaluation.predict import index_images

REFUSED = {
    "missing": "missing",
    "empty": "is empty",
    "truncated": "is truncated",
    "truncated_png": "is truncated",
    "truncated_webp": "is truncated",
    "truncated_bmp": "is truncated",
    "truncated_tiff": "",  # whatever Pillow says of it
    "float_tiff": "has pixels of kind F",
    "text": "is text, not an image",
    "html": "is an HTML page",
    "gif": "is a GIF",
    "avif": "is an AVIF or HEIF file",
    "jpeg_header_only": "is truncated",
    "sixteen_bit": "has 16 bits a channel",
}
ACCEPTED = [
    "grey", "cmyk", "palette", "alpha", "grey_alpha", "webp", "webp_lossless", "webp_alpha", "jpeg_stray_bytes", "bmp", "tiff", "exif_rotated", "progressive",
    "bytes_after_the_end", "without_end_marker", "one_pixel", "very_wide", "very_large",
]  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_files_are_refused_with_the_reason(kind: str, make_bad_file: Callable, tmp_path: Path) -> None:
    file = tmp_path / "image.jpg"
    data = make_bad_file(kind)
    if data is not None:
        file.write_bytes(data)
        assert read_header_bytes(data).reason.startswith(REFUSED[kind])
    assert read_header(str(file)).reason
    assert read_header(str(file)).reason.startswith(REFUSED[kind])


@pytest.mark.parametrize("kind", ACCEPTED)
def test_odd_but_usable_files_have_pillows_size(kind: str, make_bad_file: Callable, tmp_path: Path) -> None:
    file = tmp_path / "image.jpg"
    data = make_bad_file(kind)
    file.write_bytes(data)
    header = read_header(str(file))
    assert header.reason == ""
    assert (header.width, header.height) == Image.open(io.BytesIO(data)).size  # as stored: EXIF does not rotate
    assert read_header_bytes(data) == header


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert read_header(str(tmp_path / "pipe.jpg")).reason == "is no regular file"


def test_folders_and_unreadable_files_are_told(tmp_path: Path) -> None:
    assert "folder" in read_header(str(tmp_path)).reason


def test_no_more_open_files_is_no_fault_of_an_image(make_image: Callable, encode: Callable, tmp_path: Path) -> None:
    """It counted as broken, so with --bad-images skip another one stood in for it: the run was another run."""
    file = tmp_path / "good.jpg"
    file.write_bytes(encode(make_image(40, 36)))
    found = [FoundImage(file.name, str(file))]
    index, _, _ = index_images(found)
    before, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        for read in (lambda: read_header(str(file)), lambda: read_encoded(index, 0), lambda: index_images(found)):
            with pytest.raises(OSError, match="Too many open files"):
                read()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not read_header(str(file)).reason


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch, make_bad_file: Callable) -> None:
    monkeypatch.setattr(headers, "MAX_PIXELS", 10_000)
    assert read_header_bytes(make_bad_file("bytes_after_the_end")).reason == ""
    assert "is too large (10000 x 10000" in read_header_bytes(make_bad_file("very_large")).reason


def test_a_frame_header_behind_large_segments(make_image: Callable, encode: Callable) -> None:
    """Cameras put thumbnails and colour profiles of tens of KiB before the frame header."""
    data = encode(make_image(60, 40))
    segment = b"\xff\xe2" + (60_000).to_bytes(2, "big") + bytes(59_998)
    large = data[:2] + segment * 3 + data[2:]
    assert read_header_bytes(large)[:2] == (60, 40)


def test_every_cut_of_a_jpeg_is_refused(make_image: Callable, encode: Callable) -> None:
    data = encode(make_image(40, 30))
    for length in range(0, len(data) - 10, 7):
        assert read_header_bytes(data[:length]).reason, length


def test_real_images(shared: Path) -> None:
    files = sorted((shared / "data" / "imagenet_sample").glob("*.JPEG"))
    assert files
    for file in files:
        header = read_header(str(file))
        assert (header.width, header.height, header.reason) == (*Image.open(file).size, "")


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse, so that it takes no room: bytes of a JPEG that end in zeros would be decoded to tell whether they are whole."""
    file = tmp_path / "image.jpg"
    with file.open("wb") as raw:
        raw.write(b"\xff\xd8\xff\xe0" + bytes(100))
        raw.truncate(headers.MAX_BYTES + 1)
    monkeypatch.setattr(headers, "open_image", lambda data: pytest.fail(f"{len(data):,} bytes were read"))
    assert read_header(str(file)).reason == f"is too large ({headers.MAX_BYTES + 1:,} bytes)"


def test_a_long_stretch_of_nothing_is_not_walked_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow takes five minutes for a gigabyte of zeros after a JPEG's first bytes."""
    file = tmp_path / "image.jpg"
    file.write_bytes(b"\xff\xd8\xff\xfe\0\x02" + bytes(2**17) + b"\xff\xd9")
    monkeypatch.setattr(headers, "open_image", lambda data: pytest.fail("Pillow was asked"))
    assert read_header(str(file)).reason == "is damaged (no image in it)"
    assert headers.refusal(file.read_bytes()) == "is damaged (no image in it)"
