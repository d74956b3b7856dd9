"""JPEGs decoded at a reduced scale: when, with which pixels, and that nothing else changes."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from image_files import drawn, encoded
from loaders import BACKENDS, NEEDS_DALI, all_same, levels, levels_apart, make_loader
from PIL import Image

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.loading import decode as decoding
from fastlift.data.loading.decode import decode, has_scales, load_image
from fastlift.data.loading.reading import DecodeError
from fastlift.data.loading.render import decode_scale, render_crops, resize
from fastlift.data.sampling.crop_boxes import CropBoxes
from fastlift.data.sampling.crops import CropSettings, EvalCrops, TrainCrops

CROPS = TrainCrops(32, scaled_decode=True)
FULL = replace(CROPS, scaled_decode=False)
# Mean grey levels of a crop from the same box decoded whole; a pixel of the reduced image to the side, it is 12 levels or more.
BOUND = 6.0


def box(x: int, y: int, w: int, h: int, flip: bool = False) -> CropBoxes:
    return CropBoxes(*(np.array([[value]]) for value in (x, y, w, h, flip)))


@pytest.fixture
def index(image_files: Any) -> ImageIndex:
    """JPEGs of 280 to 308 x 300 to 310 pixels, and small ones: boxes of crops of 32 pixels are decoded at every scale."""
    image_files.fill(each=5, width=280, height=300)
    for label in range(3):
        image_files.add(f"c{label}/small.jpg", label, encoded(drawn(70, 60, seed=label)))
    return image_files.load().train


def scales(index: ImageIndex, crops: TrainCrops, epoch: int = 0) -> np.ndarray:
    rows = np.arange(len(index))
    boxes = crops.boxes(1, epoch, rows, index.widths, index.heights)
    return np.array([decode_scale(crops, boxes, row) for row in rows])


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [(31, 400, 1), (63, 64, 1), (64, 64, 2), (127, 500, 2), (128, 128, 4), (255, 300, 4), (256, 256, 8), (999, 999, 8)],
)
def test_the_scale_leaves_the_crop_its_size(width: int, height: int, scale: int) -> None:
    assert decode_scale(CROPS, box(0, 0, width, height), 0) == scale
    assert decode_scale(CROPS, box(0, 0, height, width), 0) == scale
    assert decode_scale(FULL, box(0, 0, width, height), 0) == 1


def test_evaluation_is_at_full_scale(index: ImageIndex) -> None:
    for crops in (EvalCrops(32), EvalCrops(32, crops="random")):
        boxes = crops.boxes(0, 0, np.arange(1), index.widths[:1], index.heights[:1])
        assert decode_scale(crops, boxes, 0) == 1


@pytest.mark.parametrize("form", [{}, {"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"quality": 95}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_pixels_are_libjpegs_reduced_ones(scale: int, mode: str, form: dict[str, Any]) -> None:
    """Those of Pillow's draft, bit by bit, of sides that are no multiples; near the mean of each block of full pixels."""
    data = encoded(drawn(203, 141, seed=3).convert(mode), **form)
    image = Image.open(io.BytesIO(data))
    image.draft(None, (203 // scale, 141 // scale))
    expected = np.asarray(image.convert("RGB"))
    found = decode(data, scale)
    assert found.shape == (-(-141 // scale), -(-203 // scale), 3)
    assert np.array_equal(found, expected)
    inside = decode(data)[: 141 // scale * scale, : 203 // scale * scale].astype(float)
    means = inside.reshape(141 // scale, scale, 203 // scale, scale, 3).mean((1, 3))
    assert np.abs(found[: 141 // scale, : 203 // scale] - means).mean() < 2


def test_pillow_makes_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where simplejpeg is missing."""
    data = encoded(drawn(203, 141, seed=3))
    expected = [decode(data, scale) for scale in (1, 2, 4, 8)]
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: None)
    assert all(np.array_equal(decode(data, scale), e) for scale, e in zip((1, 2, 4, 8), expected, strict=True))


@pytest.mark.parametrize("kind", ["palette", "webp", "bmp", "tiff", "cmyk"])
def test_what_has_no_scales_is_decoded_whole(
    kind: str, make_bad_file: Callable[[str], bytes], image_files: Any
) -> None:
    data = make_bad_file(kind)
    assert not has_scales(data)
    assert np.array_equal(decode(data, 4), decode(data))
    image_files.add("c0/0.x", 0, data)
    found = load_image(image_files.load(classes=1).train, 0, scale=4)
    assert found.scale == 1
    assert np.array_equal(found.values, decode(data))


def of_full_pixels(full: np.ndarray, boxes: CropBoxes, row: int, scale: int, interpolation: Any) -> np.ndarray:
    """A crop of 32 x 32 pixels from an image decoded whole, its box's edges where those of a scale are: [32, 32, 3]."""
    x, y, w, h = (int(column[row, 0]) for column in (boxes.x, boxes.y, boxes.w, boxes.h))
    left, top, right, bottom = (math.floor(edge / scale + 0.5) * scale for edge in (x, y, x + w, y + h))
    full = np.pad(full, ((0, -len(full) % 8), (0, -full.shape[1] % 8), (0, 0)), "edge")  # as encoders fill blocks
    crop = resize(full[top:bottom, left:right], 32, 32, interpolation).astype(float)
    return crop[:, ::-1] if boxes.flip[row, 0] else crop


def test_a_box_is_cut_where_it_lies() -> None:
    """Each scale, boxes with every remainder."""
    data = encoded(drawn(640, 600, seed=5), quality=95)
    full = decode(data)
    for scale in (2, 4, 8):
        reduced = decoding.Pixels(decode(data, scale), scale)
        for shift in range(8):
            out = np.empty((1, 3, 32, 32), dtype=np.uint8)
            boxes = box(80 + shift, 40 + 3 * shift % 8, 320 + 5 * shift % 8, 400 - shift, bool(shift % 2))
            render_crops(reduced, boxes, 0, "bilinear", out)
            expected = of_full_pixels(full, boxes, 0, scale, "bilinear")
            assert np.abs(out[0].transpose(1, 2, 0) - expected).mean() < BOUND


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_crops_are_those_of_a_full_decode(backend: str, interpolation: Any, index: ImageIndex) -> None:
    """To the bit where nothing is reduced; else within the bound of the same box, and not to the bit."""
    crops = replace(CROPS, interpolation=interpolation)
    found = make_loader(index, crops, backend, cache_bytes=0)
    whole = make_loader(index, replace(crops, scaled_decode=False), backend, cache_bytes=0)
    seen = set()
    for epoch in range(4):
        for a, b in zip(found.epoch(epoch), whole.epoch(epoch), strict=True):
            rows = a.indices.numpy()
            assert torch.equal(a.indices, b.indices)
            boxes = crops.boxes(1, epoch, rows, index.widths[rows], index.heights[rows])
            for row, source in enumerate(rows):
                scale = decode_scale(crops, boxes, row)
                seen.add(scale)
                assert torch.equal(a.images[row], b.images[row]) == (scale == 1)
                full = decode(index.file(int(source)).read_bytes())
                expected = of_full_pixels(full, boxes, row, scale, interpolation)
                pixels = levels(a.images[row]).permute(1, 2, 0).numpy()
                assert np.abs(pixels - expected).mean() < (BOUND if scale > 1 else 0.35)
    assert seen == {1, 2, 4, 8}


@NEEDS_DALI
def test_both_backends_show_the_same(index: ImageIndex) -> None:
    """DALI does not get what is decoded at a reduced scale: those rows are the torchvision backend's, to the bit."""
    plain, dali = (make_loader(index, CROPS, backend, cache_bytes=0) for backend in ("torchvision", "dali"))
    of_each = scales(index, CROPS)
    for a, b in zip(plain.epoch(0), dali.epoch(0), strict=True):
        reduced = of_each[a.indices.numpy()] > 1
        assert torch.equal(a.images[reduced], b.images[reduced])
        assert levels_apart(a.images, b.images).max() < 0.35


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_step_can_be_resumed(backend: str, index: ImageIndex) -> None:
    full = list(make_loader(index, CROPS, backend, cache_bytes=0).epoch(1))
    for start in (1, 3):
        assert all_same(
            iter(full[start:]), make_loader(index, CROPS, backend, cache_bytes=0, workers=3).epoch(1, start)
        )


def test_kept_images_are_whole(index: ImageIndex) -> None:
    """They are decoded once for all epochs."""
    assert all_same(make_loader(index, CROPS).epoch(0), make_loader(index, FULL).epoch(0))


def test_a_pack_gives_the_same(image_files: Any, tmp_path: Any, index: ImageIndex) -> None:
    from fastlift.data import pack

    pack.run("list", tmp_path / "pack", **image_files.options())
    packed = load_data_set("list", data_root=tmp_path / "pack", cache_dir=tmp_path / "other").train
    found, expected = (make_loader(i, CROPS, cache_bytes=0).epoch(0) for i in (packed, index))
    assert all_same(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_broken_is_broken_at_every_scale(backend: str, index: ImageIndex) -> None:
    """Damage at the end of a file whose box lies before it, and a file of another size than the index has."""
    damaged, other = index.file(3), index.file(8)
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-40] + b"\xff\x02" + data[-40:])
    other.write_bytes(encoded(drawn(150, 130)))  # as large as the index has it at half of the scale
    for scale in (1, 2, 4, 8):
        with pytest.raises(DecodeError, match="150 x 130 now, but was"):
            load_image(index, 8, scale=scale)
    bad: list[BadImage] = []
    loader = make_loader(index, CROPS, backend, cache_bytes=0, bad_images="skip", on_bad=bad.append)
    whole = make_loader(index, FULL, backend, cache_bytes=0, bad_images="skip")
    for a, b in zip(loader.epoch(0), whole.epoch(0), strict=True):
        assert torch.equal(a.indices, b.indices)
        assert a.images.isfinite().all()
    assert sorted(b.index for b in bad) == [3, 8]


def test_it_is_a_setting_that_a_resumed_run_keeps() -> None:
    from fastlift.config import Config, may_change
    from fastlift.runs.identity import settings_digest

    config = Config()
    assert "scaled_decode" not in may_change(config)
    assert settings_digest(config) != settings_digest(config.override(scaled_decode=True))
    assert CropSettings(scaled_decode=True).build(48, epochs=5) == TrainCrops(48, epochs=5, scaled_decode=True)


def test_real_images(real_images: ImageIndex) -> None:
    """Training crops of 96 pixels of ImageNet files: most are reduced; their boxes' edges have moved, too."""
    crops = TrainCrops(96, scaled_decode=True)
    found = make_loader(real_images, crops, cache_bytes=0, batch_size=50)
    expected = make_loader(real_images, replace(crops, scaled_decode=False), cache_bytes=0, batch_size=50)
    apart = []
    for a, b in zip(found.epoch(0), expected.epoch(0), strict=True):
        reduced = scales(real_images, crops)[a.indices.numpy()] > 1
        apart += levels_apart(a.images, b.images)[reduced].tolist()
    assert 50 < len(apart) < 100
    assert 0.5 < np.mean(apart) < 4.5
