"""Both backends: the same samples and crops, resumable anywhere, and shared by processes."""

from typing import Any

import numpy as np
import pytest
import torch
from loaders import (
    BACKENDS,
    MEAN,
    NEEDS_DALI,
    STD,
    all_same,
    by_crops,
    levels,
    levels_apart,
    make_loader,
    pillow_crop,
    with_and_without_cache,
)
from PIL import Image
from torchvision.transforms import v2

from fastlift.data.index.index import ImageIndex, array_index
from fastlift.data.loading import loader as loader_module
from fastlift.data.loading.loader import LoaderSettings, build_loader
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.errors import UserError

to_tensor = v2.PILToTensor()


@pytest.mark.parametrize("backend", BACKENDS)
@by_crops
def test_crops_are_pillows(backend: str, crops: TrainCrops | EvalCrops, image_files: Any) -> None:
    index = image_files.fill(each=4).load().train
    for images, labels, indices in make_loader(index, crops, backend).epoch(2):
        assert images.dtype == torch.float32
        assert images.is_contiguous()
        assert images.shape[1:] == ((crops.per_image,) if crops.stacked else ()) + (3, 32, 32)
        assert torch.equal(labels, torch.from_numpy(index.labels)[indices])
        rows = indices.numpy()
        plan = crops.boxes(1, 2, rows, index.widths[rows], index.heights[rows])
        pixels = levels(images).reshape(len(rows), crops.per_image, 3, 32, 32).permute(0, 1, 3, 4, 2).numpy()
        for row, i in enumerate(rows):
            image = Image.open(index.file(int(i))).convert("RGB")
            for crop in range(crops.per_image):
                expected = pillow_crop(image, plan, row, crop, 32, crops.interpolation)
                difference = np.abs(pixels[row, crop] - expected)
                assert difference.mean() < 0.35  # grey levels; on images with noise in every pixel
                assert difference.max() < (4 if backend == "dali" else 3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_is_torchvisions_own_transform(interpolation: Any, image_files: Any) -> None:
    """Resize and CenterCrop of torchvision: the same bits as on tensors; on PIL images a few pixels differ by a level."""
    kind = v2.InterpolationMode(interpolation)
    theirs = v2.Compose([v2.Resize(256, interpolation=kind, antialias=True), v2.CenterCrop(224)])
    index = image_files.fill(each=2, width=300, height=280).load().train
    crops = EvalCrops(224, interpolation=interpolation)
    for images, _, indices in make_loader(index, crops, shuffle=False, cache_bytes=0).epoch(0):
        opened = [Image.open(index.file(int(i))).convert("RGB") for i in indices]
        tensors = torch.stack([theirs(to_tensor(image)) for image in opened])
        assert torch.equal(levels(images).round(), tensors.float())
        differences = (tensors.float() - torch.stack([to_tensor(theirs(image)) for image in opened])).abs()
        assert differences.max() <= 2
        assert differences.mean() < 0.05


def test_evaluation_of_real_images_is_torchvisions(real_images: ImageIndex) -> None:
    """At most 0.1 grey levels on average from torchvision's transform of PIL images."""
    theirs = v2.Compose([v2.Resize(256, interpolation=v2.InterpolationMode.BILINEAR), v2.CenterCrop(224)])
    for images, _, indices in make_loader(real_images, EvalCrops(224), shuffle=False, batch_size=20).epoch(0):
        opened = [Image.open(real_images.file(int(i))).convert("RGB") for i in indices]
        expected = torch.stack([to_tensor(theirs(image)) for image in opened])
        assert (levels(images) - expected).abs().mean() < 0.1


@with_and_without_cache
def test_any_step_can_be_resumed(backend: str, cache_bytes: int, image_files: Any) -> None:
    index = image_files.fill(each=6).load().train  # 18 samples: the last of five batches is short
    whole = make_loader(index, TrainCrops(32), backend, cache_bytes=cache_bytes)
    assert whole.steps_per_epoch == 5
    full = list(whole.epoch(1))
    assert [len(batch.labels) for batch in full] == [4, 4, 4, 4, 2]
    for start in range(6):
        assert all_same(
            iter(full[start:]), make_loader(index, TrainCrops(32), backend, cache_bytes=cache_bytes).epoch(1, start)
        )
        assert all_same(iter(full[start:]), whole.epoch(1, start))
    assert not torch.equal(full[0].images, next(whole.epoch(2)).images)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_abandoned_epoch_leaves_no_trace(backend: str, image_files: Any) -> None:
    index = image_files.fill().load().train
    loader = make_loader(index, TrainCrops(32), backend)
    expected = list(loader.epoch(3))
    begun = loader.epoch(0)
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert all_same(iter(expected), loader.epoch(3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_workers_and_batches_change_nothing(backend: str, image_files: Any) -> None:
    index = image_files.fill().load().train
    images = [
        torch.cat(
            [batch.images for batch in make_loader(index, TrainCrops(32), backend, batch_size=b, workers=w).epoch(1)]
        )
        for b, w in [(1, 1), (4, 3), (15, 2), (64, 1)]
    ]
    assert all(torch.equal(images[0], other) for other in images[1:])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_each_training_batch(backend: str, ranks: int, image_files: Any) -> None:
    index = (
        image_files.fill(each=6).load().train
    )  # 18 samples: batches of 8, 8 and 2, of which the last leaves a rank without
    alone = make_loader(index, TrainCrops(32), backend, batch_size=8)
    each = [make_loader(index, TrainCrops(32), backend, batch_size=8, rank=r, world_size=ranks) for r in range(ranks)]
    for start in (0, 2):
        shared = [loader.epoch(1, start) for loader in each]
        for together, *parts in zip(alone.epoch(1, start), *shared, strict=True):
            assert torch.equal(together.indices, torch.cat([part.indices for part in parts]))
            assert torch.equal(together.images, torch.cat([part.images for part in parts]))
            assert torch.equal(together.labels, torch.cat([part.labels for part in parts]))
            assert all(torch.equal(part.whole, together.labels) for part in parts)
    assert min(len(part.labels) for part in parts) == (0 if ranks == 3 else 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ranks", [2, 7])
def test_ranks_evaluate_the_same_batches(backend: str, ranks: int, image_files: Any) -> None:
    index = image_files.fill(each=6).load().train
    alone = make_loader(index, EvalCrops(32), backend, batch_size=4, shuffle=False).epoch(0)
    each = [
        make_loader(index, EvalCrops(32), backend, batch_size=4, shuffle=False, rank=r, world_size=ranks)
        for r in range(ranks)
    ]
    for one, other in zip(alone, (batch for loader in each for batch in loader.epoch(0)), strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.images, other.images)


def test_drop_last_and_dtypes(image_files: Any) -> None:
    index = image_files.fill(each=6).load().train
    loader = make_loader(index, TrainCrops(32), drop_last=True, dtype=torch.bfloat16)
    batches = list(loader.epoch(0))
    assert [len(batch.labels) for batch in batches] == [4] * 4 == [4] * loader.steps_per_epoch
    assert batches[0].images.dtype == torch.bfloat16
    exact = next(make_loader(index, TrainCrops(32)).epoch(0)).images
    assert torch.equal(batches[0].images, exact.to(torch.bfloat16))


@NEEDS_DALI
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dali_dtypes(dtype: torch.dtype, image_files: Any) -> None:
    index = image_files.fill().load().train
    images = next(make_loader(index, TrainCrops(32), "dali", dtype=dtype).epoch(0)).images
    exact = next(make_loader(index, TrainCrops(32), "dali").epoch(0)).images
    assert images.dtype == dtype
    assert torch.equal(images, exact.to(dtype))


def test_arrays_need_no_files() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    index = array_index("x/train", images, np.arange(10) % 3, ("a", "b", "c"))
    assert LoaderSettings().backend_for(index)[0] == "torchvision"
    with pytest.raises(UserError, match="comes as arrays"):
        LoaderSettings("dali").backend_for(index)
    crops = EvalCrops(28)  # 28 * 8 // 7 = 32: the middle of the image as it is
    for pixels, _, rows in make_loader(index, crops, shuffle=False).epoch(0):
        expected = torch.from_numpy(images[rows.numpy(), 2:30, 2:30]).permute(0, 3, 1, 2).float()
        torch.testing.assert_close(levels(pixels), expected, atol=1e-3, rtol=0)


def test_the_backend_is_chosen_and_explained(image_files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index, auto = image_files.fill().load().train, LoaderSettings()
    assert auto.backend_for(index, "cuda")[0] == "torchvision"
    assert "kept in memory" in auto.backend_for(index, "cuda")[1]
    monkeypatch.setattr(loader_module, "without_dali", lambda device: "")
    assert auto.backend_for(index, "cuda", cache_bytes=0) == ("dali", "DALI is installed")
    monkeypatch.setattr(loader_module, "without_dali", lambda device: "DALI is not installed")
    assert auto.backend_for(index, "cuda", cache_bytes=0) == ("torchvision", "DALI is not installed")
    with pytest.raises(UserError, match=r"^DALI is not installed: pip install .*; or use torchvision$"):
        LoaderSettings("dali").backend_for(index, "cuda")
    with pytest.raises(UserError, match="unknown value of executor 'fast'"):
        LoaderSettings("fast")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="workers: expected a whole number from 1 to 1024, got 0"):
        LoaderSettings(workers=0)


def test_on_a_cpu_there_is_one_way(image_files: Any) -> None:
    index = image_files.fill(each=1).load().train
    why = "DALI is only used for GPUs, and the batches are for cpu"
    assert LoaderSettings().backend_for(index, cache_bytes=0) == ("torchvision", why)
    with pytest.raises(UserError, match=f"^{why}: use torchvision$"):
        build_loader(index, TrainCrops(32), batch_size=1, mean=MEAN, std=STD, executor="dali")


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"workers": 0}, {"rank": 2}, {"bad_images": "perhaps"}, {"std": (1, 1)}]
)
def test_nonsense_is_refused(options: dict[str, Any], image_files: Any) -> None:
    index = image_files.fill(each=1).load().train
    with pytest.raises(UserError):
        build_loader(index, TrainCrops(32), **{"batch_size": 4, "mean": MEAN, "std": STD, **options})


def test_importing_the_data_package_loads_neither_torch_nor_dali() -> None:
    import subprocess
    import sys

    code = "import sys, fastlift.data.datasets.catalogue, fastlift.data.loading.loader; print([m for m in ('torch', 'nvidia.dali', 'PIL') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
    code = "import sys, fastlift.data.loading.torch_loader; print('nvidia.dali' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "False"


@NEEDS_DALI
def test_a_schedule_needs_no_second_pipeline(image_files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """LIFT+'s boxes change from epoch to epoch as numbers that are fed; the graph is built once."""
    from fastlift.data.loading.dali import loader as dali_loader

    build, built = dali_loader.build_pipeline, []

    def counted(*arguments: Any, **options: Any) -> Any:
        built.append(1)
        return build(*arguments, **options)

    monkeypatch.setattr(dali_loader, "build_pipeline", counted)
    index = image_files.fill().load().train
    crops = TrainCrops(32, kind="minimalist", schedule="linear", epochs=3)
    dali, plain = (make_loader(index, crops, backend, cache_bytes=0) for backend in ("dali", "torchvision"))
    for epoch in range(3):
        for made, expected in zip(dali.epoch(epoch), plain.epoch(epoch), strict=True):
            assert torch.equal(made.indices, expected.indices)
            assert levels_apart(made.images, expected.images).max() < 0.35
    assert len(built) == 1
