"""Who decodes what of DALI's images: our threads their share, the hardware decoder its own."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from loaders import NEEDS_DALI, all_same, by_crops, levels_apart, make_loader

from fastlift.config import Config, may_change
from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.replacements import Replacements
from fastlift.data.loading.batch import Batch
from fastlift.data.loading.dali.feed import Feed
from fastlift.data.loading.dali.graph import DaliDecoding, GraphSpec
from fastlift.data.loading.looks import Looks
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.data.sampling.stream import Stream
from fastlift.errors import UserError

pytestmark = NEEDS_DALI
HALF, ALL = DaliDecoding(host_share=0.5), DaliDecoding(host_share=1.0)


@pytest.fixture
def index(image_files: Any) -> ImageIndex:
    return image_files.fill(each=6).load().train


def equal_rows(a: Batch, b: Batch) -> list[bool]:
    return [torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True)]


@by_crops
def test_each_image_is_of_one_of_both(crops: TrainCrops | EvalCrops, index: ImageIndex) -> None:
    """Our rows are the torchvision backend's to the bit, the others DALI's; some differ between these two."""
    options = {"cache_bytes": 0, "batch_size": 5}
    both = make_loader(index, crops, "dali", decoding=HALF, **options)
    dali = make_loader(index, crops, "dali", **options)
    plain = make_loader(index, crops, **options)
    told = []
    for a, b, c in zip(both.epoch(1), dali.epoch(1), plain.epoch(1), strict=True):
        assert torch.equal(a.indices, c.indices)
        assert torch.equal(a.labels, c.labels)
        assert levels_apart(a.images, c.images).max() < 0.35
        for is_dalis, is_plain, no_matter in zip(equal_rows(a, b), equal_rows(a, c), equal_rows(b, c), strict=True):
            assert is_dalis or is_plain
            if not no_matter:
                told.append(is_plain)
    assert 2 < sum(told) < len(told) - 2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_and_all(share: float, index: ImageIndex) -> None:
    found = make_loader(index, TrainCrops(32), "dali", decoding=DaliDecoding(share))
    expected = make_loader(index, TrainCrops(32), "dali" if share == 0 else "torchvision", cache_bytes=0)
    assert all_same(found.epoch(0), expected.epoch(0))


def test_the_share_is_drawn_anew_and_changes_with_nothing_else(index: ImageIndex) -> None:
    """By seed, epoch and sample: other batches, workers, ranks and starts leave each image with the same decoder."""
    full = list(make_loader(index, TrainCrops(32), "dali", decoding=HALF).epoch(1))
    again = make_loader(index, TrainCrops(32), "dali", decoding=HALF, workers=3)
    assert all_same(iter(full[2:]), again.epoch(1, 2))
    whole = torch.cat([batch.images for batch in full])
    once = next(make_loader(index, TrainCrops(32), "dali", decoding=HALF, batch_size=18).epoch(1))
    assert torch.equal(once.images, whole)
    ranks = [make_loader(index, TrainCrops(32), "dali", decoding=HALF, rank=r, world_size=2) for r in range(2)]
    for together, *parts in zip(full, *(loader.epoch(1) for loader in ranks), strict=True):
        assert torch.equal(together.images, torch.cat([part.images for part in parts]))


def mine(index: ImageIndex, share: float, seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    stream = Stream(index, TrainCrops(32), len(rows), seed=seed)
    spec = GraphSpec(stream.crops, (0.5,) * 3, (0.2,) * 3, "cpu", False, DaliDecoding(share))
    feed = Feed(stream, spec, Looks(index), workers=1, ahead=0)
    feed.close()
    return feed._mine(stream.of(rows, epoch, Replacements(index, "stop", None)))


def test_the_share_is_as_large_as_asked_for(index: ImageIndex) -> None:
    rows = np.arange(40) % len(index)
    samples = np.arange(len(index))
    many = np.concatenate([mine(index, 0.3, 1, epoch, samples) for epoch in range(200)])
    assert 0.27 < many.mean() < 0.33  # 3,600 draws: 0.3 within four standard deviations
    assert not np.array_equal(mine(index, 0.5, 1, 0, samples), mine(index, 0.5, 1, 1, samples))
    assert not np.array_equal(mine(index, 0.5, 1, 0, samples), mine(index, 0.5, 2, 0, samples))
    assert np.array_equal(mine(index, 0.5, 1, 0, rows), mine(index, 0.5, 1, 0, samples)[rows])
    small, large = mine(index, 0.3, 1, 0, samples), mine(index, 0.6, 1, 0, samples)
    assert (large | ~small).all()  # a larger share adds to a smaller one


def test_broken_images_of_either_part(index: ImageIndex) -> None:
    for row in (2, 3, 4, 7, 11):
        data = index.file(row).read_bytes()
        index.file(row).write_bytes(data[:-40] + b"\xff\x02" + data[-40:])
    bad: list[BadImage] = []
    found = make_loader(index, TrainCrops(32), "dali", decoding=HALF, bad_images="skip", on_bad=bad.append)
    expected = make_loader(index, TrainCrops(32), cache_bytes=0, bad_images="skip")
    for epoch in range(2):
        for a, b in zip(found.epoch(epoch), expected.epoch(epoch), strict=True):
            assert torch.equal(a.indices, b.indices)
            assert levels_apart(a.images, b.images).max() < 0.35
    assert sorted(b.index for b in bad) == [2, 3, 4, 7, 11]
    with pytest.raises(UserError, match="cannot be decoded"):
        list(make_loader(index, TrainCrops(32), "dali", decoding=HALF).epoch(0))


def test_where_the_pipelines_thread_waits(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that are slow are waited for, not DALI."""
    from fastlift.data.loading.dali import feed

    loader: Any = make_loader(index, TrainCrops(32), "dali", decoding=ALL, workers=1)
    list(loader.epoch(0))
    before = loader.waited.threads_s, loader.waited.dali_s
    made = feed.drawn

    def slow(*arguments: Any) -> np.ndarray:
        time.sleep(0.05)
        return made(*arguments)

    monkeypatch.setattr(feed, "drawn", slow)
    began = time.perf_counter()
    list(loader.epoch(1))
    whole_s = time.perf_counter() - began
    threads_s, dali_s = (
        now - then for now, then in zip((loader.waited.threads_s, loader.waited.dali_s), before, strict=True)
    )
    assert threads_s > 0.5  # of 0.9 s of sleep
    assert threads_s + dali_s < whole_s  # one thread waits for one of them at a time
    assert loader.waited.feeding_s >= loader.waited.threads_s


def test_they_are_settings_of_dali_that_a_resumed_run_may_change() -> None:
    config = Config().override(host_decode=0.25, hw_decoder_load=1.0)
    assert {"host_decode", "hw_decoder_load"} <= may_change(config)
    for name in ("host_decode", "hw_decoder_load"):
        with pytest.raises(UserError, match=f"{name} 0.5 would change nothing here: it is how DALI decodes"):
            Config().override(executor="torchvision", **{name: 0.5})
        with pytest.raises(UserError, match=rf"{name}: expected a number in \[0, 1\]"):
            Config().override(**{name: 1.5})
