"""Both backends on images that are odd, damaged, or other than they were when they were indexed."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from loaders import (
    BACKENDS,
    MEAN,
    NEEDS_DALI,
    STD,
    WITH_HELPERS,
    all_same,
    levels,
    make_loader,
    pillow_crop,
    with_and_without_cache,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastlift.data import pack
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.index.index import BadImage
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.data.sampling.stream import Stream
from fastlift.errors import UserError

GOOD_KINDS = [
    "grey", "cmyk", "palette", "alpha", "grey_alpha", "webp", "webp_lossless", "jpeg_stray_bytes", "bmp", "tiff", "exif_rotated", "progressive",
    "bytes_after_the_end", "one_pixel", "very_wide", "cmyk_without_adobe", "tiff_flipped", "tiff_grey_alpha", "bmp_16_bit",
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", GOOD_KINDS)
def test_odd_images_look_as_in_pillow(backend: str, kind: str, image_files: Any, make_bad_file: Callable) -> None:
    data = make_bad_file(kind)
    image_files.fill(each=1).add("c0/odd.jpg", 0, data)
    index = image_files.load().train
    image = Image.open(io.BytesIO(data)).convert("RGB")
    # Grey levels. Decoding 3 of 3000 x 2 pixels, DALI sees less of the chroma around the crop box than Pillow does.
    limit = 1.5 if kind == "very_wide" else 0.6
    for crops in (TrainCrops(32), EvalCrops(32), EvalCrops(32, crops="five")):
        batch = next(make_loader(index, crops, backend, shuffle=False).epoch(0))
        plan = crops.boxes(1, 0, np.array([3]), index.widths[3:], index.heights[3:])
        pixels = levels(batch.images)[3].reshape(crops.per_image, 3, 32, 32).permute(0, 2, 3, 1).numpy()
        for crop in range(crops.per_image):
            assert np.abs(pixels[crop] - pillow_crop(image, plan, 0, crop, 32)).mean() < limit


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:DALI cannot decode", "ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["without_end_marker", "webp_alpha", "tiff_rotated"])
def test_images_that_only_some_decoders_take(
    backend: str, kind: str, image_files: Any, make_bad_file: Callable
) -> None:
    """A JPEG that lacks no more than its end marker is whole; where DALI refuses an image, Pillow decodes it there too."""
    image_files.fill(each=1).add("c0/odd.jpg", 0, make_bad_file(kind))
    index = image_files.load().train
    pixels = levels(next(make_loader(index, EvalCrops(32), backend, shuffle=False).epoch(0)).images)[3]
    plan = EvalCrops(32).boxes(0, 0, np.array([3]), index.widths[3:], index.heights[3:])
    expected = pillow_crop(Image.open(index.file(3)).convert("RGB"), plan, 0, 0, 32)
    assert np.abs(pixels.permute(1, 2, 0).numpy() - expected).mean() < 0.35


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_very_large_image(backend: str, image_files: Any, make_bad_file: Callable) -> None:
    image_files.fill(classes=1, each=1).add("c0/large.jpg", 0, make_bad_file("very_large"))
    index = image_files.load(classes=1).train
    pixels = levels(next(make_loader(index, EvalCrops(32), backend, shuffle=False).epoch(0)).images)[1]
    assert (pixels.mean(dim=(1, 2)) - torch.tensor([200.0, 30.0, 60.0])).abs().max() < 4  # JPEG


@with_and_without_cache
@pytest.mark.parametrize("crops", [TrainCrops(32), EvalCrops(32, crops="five")], ids=["train", "five"])
def test_an_image_that_breaks_later_stops_with_its_path(
    backend: str, cache_bytes: int, crops: TrainCrops | EvalCrops, image_files: Any, make_bad_file: Callable
) -> None:
    index = image_files.fill().load().train
    for kind, reason in [("empty", "is empty"), ("html", "is an HTML page"), ("truncated", "is truncated")]:
        (image_files.root / "c1" / "2.jpg").write_bytes(make_bad_file(kind))
        with pytest.raises(UserError, match=rf"c1/2\.jpg {reason}.*--bad-images skip") as caught:
            list(make_loader(index, crops, backend, cache_bytes=cache_bytes).epoch(0))
        assert caught.value.exit_code == 1
    (image_files.root / "c1" / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"c1/2\.jpg is missing"):
        list(make_loader(index, crops, backend, cache_bytes=cache_bytes).epoch(0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_that_changed_its_size_stops(
    backend: str, image_files: Any, encode: Callable, make_image: Callable
) -> None:
    index = image_files.fill().load().train
    (image_files.root / "c1" / "2.jpg").write_bytes(encode(make_image(300, 300)))
    with pytest.raises(UserError, match=r"c1/2\.jpg is 300 x 300 now, but was .* when it was indexed"):
        list(make_loader(index, TrainCrops(32), backend).epoch(0))


@with_and_without_cache
def test_skip_goes_on_the_same_after_a_resume(
    backend: str, cache_bytes: int, image_files: Any, encode: Callable, make_image: Callable
) -> None:
    index = image_files.fill(each=4).load().train  # rows 4..7 are class 1
    (image_files.root / "c1" / "2.jpg").write_bytes(b"")
    (image_files.root / "c1" / "3.jpg").unlink()
    bad: list[BadImage] = []
    loader = make_loader(index, TrainCrops(32), backend, cache_bytes=cache_bytes, bad_images="skip", on_bad=bad.append)
    first, second = list(loader.epoch(0)), list(loader.epoch(1))
    assert sorted((b.index, b.path, b.reason) for b in bad) == [
        (6, "c1/2.jpg", "is empty"),
        (7, "c1/3.jpg", "is missing"),
    ]
    assert sorted(torch.cat([batch.indices for batch in second]).tolist()) == list(range(12))
    again = make_loader(index, TrainCrops(32), backend, cache_bytes=cache_bytes, bad_images="skip")
    assert all_same(iter(second[1:]), again.epoch(1, 1))
    assert all_same(iter(first), again.epoch(0))
    # Rows 6 and 7 show row 4, through their own boxes.
    widths, heights = np.full(2, index.widths[4]), np.full(2, index.heights[4])
    plan = TrainCrops(32).boxes(1, 0, np.array([6, 7]), widths, heights)
    image = Image.open(index.file(4)).convert("RGB")
    for k, row in enumerate((6, 7)):
        shown = next(b.images[b.indices == row] for b in first if row in b.indices)
        pixels = levels(shown)[0].permute(1, 2, 0).numpy()
        assert np.abs(pixels - pillow_crop(image, plan, k, 0, 32)).mean() < 0.35


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad_images", ["stop", "skip"])
def test_damage_counts_wherever_the_boxes_lie(backend: str, bad_images: str, image_files: Any) -> None:
    """A decoder of boxes may not reach the damage, in this epoch or in all: it still has the last word of the others."""
    index = image_files.fill(each=4, width=400, height=400).load().train
    for file, cut in (("c1/2.jpg", False), ("c2/1.jpg", True)):
        path = image_files.root / file
        data = path.read_bytes()
        place = len(data) * 9 // 10
        path.write_bytes(data[:place] if cut else data[:place] + b"\xff\x02" + data[place:])
    whole = make_loader(index, TrainCrops(32), backend, bad_images=bad_images, cache_bytes=0)
    for epoch in range(4):
        fresh = make_loader(index, TrainCrops(32), backend, bad_images=bad_images, cache_bytes=0)
        if bad_images == "stop":
            with pytest.raises(UserError, match=r"c1/2\.jpg cannot be decoded|c2/1\.jpg is truncated"):
                list(fresh.epoch(epoch))
        else:
            assert all_same(whole.epoch(epoch), fresh.epoch(epoch))


UNRECOGNISABLE = [bytes(3000), b"\0", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(range(256)) * 4]


@NEEDS_DALI
def test_dali_never_sees_what_it_would_die_of(image_files: Any, make_bad_file: Callable) -> None:
    """Files and members of packs that changed after they were indexed: in a process of its own, which DALI used to end."""
    import subprocess
    import sys

    files = image_files.fill(classes=2, each=40).load(classes=2).train
    pack.run("list", image_files.root.parent / "pack", **image_files.options())
    packed = load_data_set("list", data_root=image_files.root.parent / "pack").train
    contents = [
        *UNRECOGNISABLE,
        make_bad_file("gif"),
        make_bad_file("jpeg_header_only"),
        make_bad_file("truncated_png"),
    ]
    for k, content in enumerate(contents):
        files.file(3 * k).write_bytes(content)
        offset, count = packed.spans[3 * k].tolist()
        with packed.file(3 * k).open("r+b") as shard:
            shard.seek(offset)
            shard.write(content[:count].ljust(count, b"\0"))
    places = [image_files.options(), {"data_root": image_files.root.parent / "pack"}]
    arguments = json.dumps([{key: str(path) for key, path in place.items()} for place in places])
    done = subprocess.run([sys.executable, "-c", ITERATE, arguments], capture_output=True, text=True, env=WITH_HELPERS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[[80] * 3, [3 * k for k in range(len(contents))]]] * 2


ITERATE = """
import json, sys
from pathlib import Path
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.sampling.crops import TrainCrops
from loaders import make_loader
found = []
for place in json.loads(sys.argv[1]):
    index, bad = load_data_set("list", **{key: Path(path) for key, path in place.items()}).train, set()
    loader = make_loader(index, TrainCrops(32), "dali", batch_size=40, workers=2, bad_images="skip",
                         on_bad=lambda b: bad.add(b.index))
    seen = [sum(len(batch.labels) for batch in loader.epoch(epoch)) for epoch in range(3)]
    found.append([seen, sorted(bad)])
print(json.dumps(found))
"""


@NEEDS_DALI
def test_dali_is_fed_plain_jpegs_alone(image_files: Any, make_bad_file: Callable) -> None:
    """Everything else is a tiny image to it, at a place that this has."""
    from fastlift.data.index.replacements import Replacements
    from fastlift.data.loading.dali.feed import Feed
    from fastlift.data.loading.dali.graph import GraphSpec
    from fastlift.data.loading.looks import Looks

    image_files.fill(classes=1, each=2)
    for k, kind in enumerate(("alpha", "webp", "tiff", "cmyk", "progressive", "exif_rotated")):
        image_files.add(f"c0/{k}.x", 0, make_bad_file(kind))
    index = image_files.load(classes=1).train
    index.file(1).unlink()
    for crops in (TrainCrops(32), EvalCrops(32)):
        stream = Stream(index, crops, 8, shuffle=False)
        feed = Feed(stream, GraphSpec(crops, MEAN, STD, "cpu", half=False), Looks(index), workers=2, ahead=1)
        feed.start(iter([stream.step(stream.order(0), 0, 0, Replacements(index, "stop", None))]))
        encoded, places, sizes = ([np.asarray(of_row) for of_row in given] for given in feed(None)[:3])
        fed = feed.fed[0]
        assert sorted(fed.ours) == [1, 2, 3, 4, 5]
        assert str(fed.ours[1]) == "is missing"
        for row in range(8):
            width, height = Image.open(io.BytesIO(bytes(encoded[row]))).size
            own = (width, height) == (index.widths[row], index.heights[row])
            assert own == (row not in fed.ours)
            if row in fed.ours and isinstance(crops, TrainCrops):
                assert all(places[row] + sizes[row] <= (width, height))
        with pytest.raises(StopIteration):
            feed(None)
        feed.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_reasons_are_the_same_words_every_time(backend: str, image_files: Any, make_bad_file: Callable) -> None:
    """They are compared when a run goes on, so they hold no address and no name of a passing file."""
    png = io.BytesIO()
    text = PngInfo()
    text.add_text("comment", "x" * 2_000_000, zip=True)
    Image.open(io.BytesIO(make_bad_file("alpha"))).save(png, "PNG", pnginfo=text)
    image_files.fill(classes=1, each=2)
    tiff = make_bad_file("tiff")
    kinds = {
        "text.png": png.getvalue(),
        "damaged.png": make_bad_file("alpha"),
        "damaged.tif": tiff,
        "none.jpg": make_bad_file("exif_rotated"),
        "other.jpg": make_bad_file("exif_rotated"),
    }
    for name, data in kinds.items():
        image_files.add(f"c0/{name}", 0, data)
    index = image_files.load(classes=1).train
    png_start = kinds["damaged.png"][:60] + bytes(20) + kinds["damaged.png"][80:]
    for name, data in {
        "damaged.png": png_start,
        "damaged.tif": tiff[:4] + bytes(4) + tiff[8:],
        "none.jpg": b"\xff\xd8\xff" + bytes(3000),
        "other.jpg": make_bad_file("gif"),
    }.items():
        (image_files.root / "c0" / name).write_bytes(data)
    found = []
    for _ in range(2):
        bad: dict[str, str] = {}
        loader = make_loader(
            index, EvalCrops(32), backend, shuffle=False, bad_images="skip", cache_bytes=0,
            on_bad=lambda b, bad=bad: bad.update({b.path: b.reason}),
        )  # fmt: skip
        list(loader.epoch(0))
        found.append(bad)
    assert found[0] == found[1]
    assert sorted(found[0]) == [f"c0/{name}" for name in sorted(kinds)]
    assert "cannot be decoded" in found[0]["c0/text.png"]
    assert found[0]["c0/other.jpg"] == "is a GIF (convert it to JPEG or PNG)"
    assert not [reason for reason in found[0].values() if "0x" in reason or "object" in reason or "/tmp" in reason]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_replacement_that_breaks_is_one_broken_file(backend: str, image_files: Any, make_bad_file: Callable) -> None:
    """Row 0 has shown row 1's file since the scan; when that breaks, both show row 2's, and one file is told."""
    image_files.fill(classes=1, each=3).add("c0/3.jpg", 0, b"")
    index = image_files.load(classes=1, bad_images="skip").train
    assert [(b.index, b.replacement) for b in index.bad] == [(3, 0)]
    (image_files.root / "c0" / "0.jpg").write_bytes(make_bad_file("html"))
    bad: list[BadImage] = []
    loader = make_loader(
        index, EvalCrops(32), backend, shuffle=False, bad_images="skip", on_bad=bad.append, cache_bytes=0
    )
    images = next(loader.epoch(0)).images
    assert [(b.path, b.replacement) for b in bad] == [("c0/0.jpg", 1)]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[3], images[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_skip_ends_where_a_class_has_nothing_left(backend: str, image_files: Any) -> None:
    index = image_files.fill(classes=2, each=2).load(classes=2).train
    for k in range(2):
        (image_files.root / "c1" / f"{k}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="its class has no other good image"):
        list(make_loader(index, TrainCrops(32), backend, bad_images="skip").epoch(0))
