"""CropBoxes: torchvision's geometry to the pixel, its distribution, LIFT+'s schedule."""

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torchvision.transforms import functional as tv
from torchvision.transforms.v2 import RandomResizedCrop

from fastlift.data.sampling.crop_boxes import CropBoxes, ResizedCrops
from fastlift.data.sampling.crops import CropSettings, EvalCrops, TrainCrops, schedule_value
from fastlift.errors import UserError
from fastlift.settings import check_effects

SIZES = [(500, 375), (375, 500), (333, 500), (224, 224), (64, 48), (1, 1), (1, 30), (2000, 90), (17, 300), (1023, 767)]


def _boxes(crops: TrainCrops, width: int, height: int, n: int, epoch: int = 0, seed: int = 0) -> CropBoxes:
    return crops.boxes(seed, epoch, np.arange(n), np.full(n, width), np.full(n, height))


@pytest.mark.parametrize("kind", ["random_resized_crop", "minimalist"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_windows_stay_inside(kind: str, width: int, height: int) -> None:
    boxes = _boxes(TrainCrops(32, kind=kind), width, height, 500)  # type: ignore[arg-type]
    assert boxes.w.min() >= 1
    assert boxes.h.min() >= 1
    assert boxes.x.min() >= 0
    assert boxes.y.min() >= 0
    assert (boxes.x + boxes.w).max() <= width
    assert (boxes.y + boxes.h).max() <= height


@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 500), (300, 90), (40, 400), (64, 64), (12, 9)])
def test_windows_have_torchvisions_distribution(width: int, height: int) -> None:
    """Two-sample Kolmogorov-Smirnov on x, y, w, h and area, fallback shapes among them; no p below 1e-3 of 30."""
    n = 4000
    torch.manual_seed(1)
    crop = RandomResizedCrop(32)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [[p[k] for k in ("left", "top", "width", "height")] for p in (crop.make_params([image]) for _ in range(n))]
    )
    boxes = _boxes(TrainCrops(32), width, height, n)
    ours = np.concatenate([boxes.x, boxes.y, boxes.w, boxes.h], axis=1)
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert stats.ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3
    assert abs(boxes.flip.mean() - 0.5) < 0.04


def test_same_uniforms_give_torchvisions_window_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feed torchvision's own formula with our numbers, attempt after attempt, over many sizes."""
    import math

    from fastlift.data.sampling.crop_boxes import random_resized_crop
    from fastlift.data.sampling.philox import uniform

    random = np.random.default_rng(0)
    widths, heights = random.integers(1, 600, 500), random.integers(1, 600, 500)
    u = uniform(0, 0, 0, np.arange(500), 40)
    got = np.stack(random_resized_crop(u, widths, heights, 0.08), axis=1)
    for i, (width, height) in enumerate(zip(widths.tolist(), heights.tolist(), strict=True)):
        for attempt in u[i].reshape(10, 4).tolist():
            area = width * height * (0.08 + 0.92 * attempt[0])
            low, high = math.log(3 / 4), math.log(4 / 3)
            aspect = math.exp(low + (high - low) * attempt[1])
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                expected = (int(attempt[3] * (width - w + 1)), int(attempt[2] * (height - h + 1)), w, h)
                break
        else:
            w, h = width, height
            if width / height < 3 / 4:
                h = round(width / (3 / 4))
            elif width / height > 4 / 3:
                w = round(height * (4 / 3))
            expected = ((width - w) // 2, (height - h) // 2, w, h)
        assert tuple(got[i].tolist()) == expected


def test_windows_are_functions_of_seed_epoch_and_sample() -> None:
    crops, n = TrainCrops(32), 64
    widths, heights = np.arange(100, 100 + n), np.arange(80, 80 + n)
    whole = crops.boxes(5, 3, np.arange(n), widths, heights)
    part = crops.boxes(5, 3, np.array([40, 2]), widths[[40, 2]], heights[[40, 2]])
    for column in ("x", "y", "w", "h", "flip"):
        np.testing.assert_array_equal(getattr(whole, column)[[40, 2]], getattr(part, column))
    assert not np.array_equal(whole.x, crops.boxes(5, 4, np.arange(n), widths, heights).x)
    assert not np.array_equal(whole.x, crops.boxes(6, 3, np.arange(n), widths, heights).x)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("convex", [0.0, 1 - (1 - 1 / 9) ** 0.5, 1 - (1 - 4 / 9) ** 0.5, 1.0]),
        ("linear", [0.0, 1 / 3, 2 / 3, 1.0]),
        ("concave", [0.0, (1 - 4 / 9) ** 0.5, (1 - 1 / 9) ** 0.5, 1.0]),
        ("always_0", [0.0] * 4),
        ("always_1", [1.0] * 4),
    ],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    assert [schedule_value(schedule, epoch, 4) for epoch in range(4)] == pytest.approx(expected)  # type: ignore[arg-type]
    assert schedule_value(schedule, 0, 1) == expected[0]  # type: ignore[arg-type]


def test_minimalist_squares_follow_the_schedule() -> None:
    crops = TrainCrops(32, kind="minimalist", schedule="linear", epochs=3)
    for epoch, least in enumerate([0.08, 0.54, 1.0]):
        boxes = _boxes(crops, 200, 200, 2000, epoch)
        share = boxes.w * boxes.h / 200**2
        assert np.array_equal(boxes.w, boxes.h)
        assert not boxes.flip.any()
        assert share.min() >= least - 0.01
        assert share.mean() == pytest.approx((least + 1) / 2, abs=0.02)
    # A wide image: the largest square covers 100**2 of 300 * 100, and both bounds are capped by that.
    assert set(_boxes(crops, 300, 100, 200, 2).w[:, 0].tolist()) == {100}
    wide = _boxes(crops, 300, 100, 2000, 0)
    assert wide.w.min() >= int((0.08 * 300 * 100) ** 0.5)
    assert wide.w.max() == 100


def test_flip_can_be_asked_for_or_refused() -> None:
    assert not _boxes(TrainCrops(32, flip=False), 50, 50, 200).flip.any()
    assert 60 < _boxes(TrainCrops(32, kind="minimalist", flip=True), 50, 50, 200).flip.sum() < 140


@pytest.mark.parametrize("size", [224, 48, 7, 225])
@pytest.mark.parametrize("kind", ["center", "five", "ten"])
@pytest.mark.parametrize(("width", "height"), [s for s in SIZES if s not in ((1, 30), (2000, 90))])
def test_evaluation_geometry_is_torchvisions(size: int, kind: str, width: int, height: int) -> None:
    """Crop images whose pixels are their own coordinates, with torchvision and with our numbers."""
    crops = EvalCrops(size, crops=kind)  # type: ignore[arg-type]
    plan = crops.boxes(0, 0, np.arange(1), np.array([width]), np.array([height]))
    assert isinstance(plan, ResizedCrops)
    new_height, new_width = tv.resize(torch.empty(1, height, width), crops.short_side).shape[1:]
    assert (int(plan.width[0]), int(plan.height[0])) == (new_width, new_height)
    coordinates = torch.arange(new_height * new_width).reshape(1, new_height, new_width)
    if kind == "center":
        theirs: tuple[torch.Tensor, ...] = (tv.center_crop(coordinates, size),)
    else:
        theirs = tv.five_crop(coordinates, size) if kind == "five" else tv.ten_crop(coordinates, size)
    assert len(theirs) == crops.per_image
    for crop, expected in enumerate(theirs):
        x, y = int(plan.x[0, crop]), int(plan.y[0, crop])
        ours = coordinates[:, y : y + size, x : x + size]
        assert torch.equal(ours.flip(2) if plan.flip[0, crop] else ours, expected)


def test_random_crops_differ_by_crop_and_repeat_by_seed() -> None:
    crops = EvalCrops(32, crops="random", n_random=4)
    plan = crops.boxes(0, 0, np.arange(10), np.full(10, 300), np.full(10, 200))
    assert isinstance(plan, CropBoxes)
    assert plan.x.shape == (10, 4)
    assert len({tuple(row) for row in np.stack([plan.x, plan.y, plan.w, plan.h], -1).reshape(-1, 4).tolist()}) > 35
    again = crops.boxes(0, 0, np.arange(5, 10), np.full(5, 300), np.full(5, 200))
    np.testing.assert_array_equal(plan.x[5:], again.x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainCrops(0),
        lambda: TrainCrops(32, kind="other"),  # type: ignore[arg-type]
        lambda: TrainCrops(32, schedule="other"),  # type: ignore[arg-type]
        lambda: TrainCrops(32, min_scale=0.0),
        lambda: EvalCrops(32, crops="six"),  # type: ignore[arg-type]
        lambda: EvalCrops(32, crops="random", n_random=0),
        lambda: EvalCrops(32, crops="five", expand=-1),
    ],
)
def test_nonsense_is_refused(make: object) -> None:
    with pytest.raises(UserError):
        make()  # type: ignore[operator]


def test_settings_make_the_crops_of_a_run() -> None:
    settings = CropSettings(augmentation="minimalist", schedule="linear", min_scale=0.25, interpolation="bicubic")
    expected = TrainCrops(48, kind="minimalist", schedule="linear", min_scale=0.25, epochs=5, interpolation="bicubic")
    assert settings.build(48, epochs=5) == expected
    assert settings.build(48, epochs=0).epochs == 1
    with pytest.raises(UserError, match=r"min_scale: expected a share of the area in \(0, 1\], got 0"):
        CropSettings(min_scale=0.0)
    values = {**settings.values(), "augmentation": "random_resized_crop"}
    with pytest.raises(UserError, match=r"schedule linear would change nothing here: .* \(augmentation minimalist\)"):
        check_effects([CropSettings], values, CropSettings().values(), ["schedule"])
