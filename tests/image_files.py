"""Small images on disk, and the ways to make bad ones: fixtures for the conftest of a folder that wants them."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.index import ImageIndex


def drawn(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth coloured image with some noise: like a photograph to a codec and a resampler."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = smooth + random.integers(-8, 9, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


class ImageFiles:
    """A data root in the making: files, list lines, and the data set of them."""

    def __init__(self, root: Path) -> None:
        self.root = root / "images"
        self.cache = root / "cache"
        self.root.mkdir()
        self.lines: list[str] = []

    def add(self, path: str, label: int, data: bytes | None) -> None:
        if data is not None:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(data)
        self.lines.append(f"{path} {label}")

    def fill(self, classes: int = 3, each: int = 5, width: int = 80, height: int = 60) -> "ImageFiles":
        """``each`` JPEGs of varied size a class."""
        for label in range(classes):
            for k in range(each):
                image = drawn(width + 7 * k, height + 5 * label, seed=100 * label + k)
                self.add(f"c{label}/{k}.jpg", label, encoded(image, quality=90))
        return self

    def load(self, classes: int = 3, **options: object) -> DataSet:
        names = "".join(f"c{label} thing {label}\n" for label in range(classes))
        (self.root.parent / "train.txt").write_text("\n".join(self.lines) + "\n")
        (self.root.parent / "names.txt").write_text(names)
        return load_data_set("list", **self.options(), **options)  # type: ignore[arg-type]

    def options(self) -> dict[str, Path]:
        """What ``load`` gives to ``load_data_set``."""
        files = {"train_list": "train.txt", "test_list": "train.txt", "class_names": "names.txt"}
        paths = {flag: self.root.parent / file for flag, file in files.items()}
        return {"data_root": self.root, "cache_dir": self.cache, **paths}


@pytest.fixture
def image_files(tmp_path: Path) -> ImageFiles:
    return ImageFiles(tmp_path)


@pytest.fixture(scope="session")
def make_image() -> Callable[..., Image.Image]:
    return drawn


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    return encoded


def half_transparent(image: Image.Image) -> Image.Image:
    with_alpha = image.convert("RGBA")
    with_alpha.putalpha(Image.linear_gradient("L").resize(image.size))
    return with_alpha


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """A JPEG without its first segment of a kind."""
    start = jpeg.index(bytes((0xFF, marker)))
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def bmp_of_16_bits(width: int, height: int) -> bytes:
    """Five bits of red, six of green, five of blue: a header and noise."""
    pixels = np.random.default_rng(7).integers(0, 2**16, (height, width), dtype="<u2").tobytes()
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3, len(pixels), 2835, 2835, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 66 + len(pixels), 0, 0, 66) + info + masks + pixels


def bad_file(kind: str) -> bytes | None:
    """The content of a bad or odd file of a kind; None for a missing one."""
    image = drawn(96, 72, seed=7)
    jpeg = encoded(image, quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter turn
    made: dict[str, Callable[[], bytes | None]] = {
        "missing": lambda: None,
        "empty": lambda: b"",
        "truncated": lambda: jpeg[: len(jpeg) // 2],
        "without_end_marker": lambda: jpeg[:-2],
        "truncated_png": lambda: encoded(image, "PNG")[:-40],
        "truncated_webp": lambda: encoded(image, "WEBP")[:-40],
        "truncated_bmp": lambda: encoded(image, "BMP")[:-4000],
        "truncated_tiff": lambda: encoded(image, "TIFF")[:-4000],
        "float_tiff": lambda: encoded(image.convert("F"), "TIFF"),
        "text": lambda: b"this is not an image\n" * 20,
        "html": lambda: b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "gif": lambda: encoded(image, "GIF"),
        "avif": lambda: b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B" + bytes(64),  # only newer Pillows write more
        "jpeg_header_only": lambda: jpeg[:20],
        "sixteen_bit": lambda: encoded(Image.fromarray(np.arange(96 * 72, dtype=np.uint16).reshape(72, 96)), "PNG"),
        "grey": lambda: encoded(image.convert("L")),
        "cmyk": lambda: encoded(image.convert("CMYK")),
        "palette": lambda: encoded(image.quantize(32), "PNG"),
        "alpha": lambda: encoded(image.convert("RGBA"), "PNG"),
        "grey_alpha": lambda: encoded(image.convert("LA"), "PNG"),
        "webp": lambda: encoded(image, "WEBP"),
        "webp_lossless": lambda: encoded(image, "WEBP", lossless=True),
        "webp_alpha": lambda: encoded(half_transparent(image), "WEBP"),
        "bmp": lambda: encoded(image, "BMP"),
        "jpeg_stray_bytes": lambda: jpeg[:20] + b"\0\0\0" + jpeg[20:],
        "tiff": lambda: encoded(image, "TIFF"),
        "tiff_flipped": lambda: encoded(image, "TIFF", tiffinfo={274: 3}),
        "tiff_rotated": lambda: encoded(image, "TIFF", tiffinfo={274: 6}),
        "tiff_grey_alpha": lambda: encoded(half_transparent(image).convert("LA"), "TIFF"),
        "cmyk_without_adobe": lambda: without_segment(encoded(image.convert("CMYK")), 0xEE),
        "bmp_16_bit": lambda: bmp_of_16_bits(96, 72),
        "exif_rotated": lambda: encoded(image, exif=exif),
        "progressive": lambda: encoded(image, progressive=True),
        "bytes_after_the_end": lambda: jpeg + b"\0" * 100,
        "one_pixel": lambda: encoded(drawn(1, 1)),
        "very_wide": lambda: encoded(drawn(3000, 2)),
        "very_large": lambda: encoded(Image.new("RGB", (10_000, 10_000), (200, 30, 60)), quality=50),
    }
    return made[kind]()


@pytest.fixture(scope="session")
def make_bad_file() -> Callable[[str], bytes | None]:
    return bad_file


@pytest.fixture
def real_images(shared: Path, tmp_path: Path) -> ImageIndex:
    """100 files of ImageNet, each a class of its own."""
    root = shared / "data" / "imagenet_sample"
    files = sorted(file.name for file in root.glob("*.JPEG"))
    lines, names = tmp_path / "list.txt", tmp_path / "names.txt"
    lines.write_text("".join(f"{name} {i}\n" for i, name in enumerate(files)))
    names.write_text("".join(name[:-5].replace("_", " ") + "\n" for name in files))
    return load_data_set(
        "list", data_root=root, train_list=lines, test_list=lines, class_names=names, cache_dir=tmp_path
    ).train
