"""A look at a file's bytes happens once, for as long as the file is as it was; and DALI never gets bytes nobody looked at."""

import dataclasses
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import flipped_bits
from loaders import NEEDS_DALI, WITH_HELPERS, levels_apart, make_loader

from fastlift.data import pack
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.index.columns import digest_of
from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.replacements import Replacements
from fastlift.data.loading import looks, reading
from fastlift.data.loading.batch import Loader
from fastlift.data.loading.dali import feed as dali_feed
from fastlift.data.loading.dali.feed import Feed
from fastlift.data.loading.dali.graph import GraphSpec
from fastlift.data.loading.looks import Looks
from fastlift.data.loading.reading import Condition
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.data.sampling.stream import Stream
from fastlift.errors import FastliftWarning, UserError

LONG_AGO = Condition(bytes=1000, modified_ns=10**18, changed_ns=10**18, inode=7)
NOW_NS = 2 * 10**18


@pytest.fixture(autouse=True)
def _files_of_this_moment_count_as_settled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests write their files just before they are looked at, which is when nothing would be noted."""
    if "the_clock" not in request.fixturenames:
        monkeypatch.setattr(looks, "SETTLED_NS", -(10**18))


@pytest.fixture
def the_clock() -> None:
    """The test wants the real time that a file must have been left alone for."""


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bytes of every look at a file's scans, as they happen."""
    seen: list[bytes] = []
    look = dali_feed.plain_parts

    def counted(data: bytes, width: int, height: int, *, whole: bool = False) -> Any:
        if not whole:
            seen.append(data)
        return look(data, width, height, whole=whole)

    monkeypatch.setattr(dali_feed, "plain_parts", counted)
    return seen


def with_metadata(jpeg: bytes) -> bytes:
    """A comment after the JFIF header: one part that DALI does not get."""
    return jpeg[:20] + b"\xff\xfe\x00\x08secret" + jpeg[20:]


def with_much_metadata(jpeg: bytes) -> bytes:
    """Comments in two places: more parts than are kept."""
    tables = jpeg.index(b"\xff\xc4")
    return with_metadata(jpeg[:tables] + b"\xff\xfe\x00\x08hidden" + jpeg[tables:])


def fed(index: ImageIndex, known: Looks) -> list[bytes | None]:
    """What DALI would get of each image, in order; None where it gets another in its place."""
    stream = Stream(index, EvalCrops(32), len(index), shuffle=False)
    feed = Feed(stream, GraphSpec(stream.crops, (0, 0, 0), (1, 1, 1), "cpu", half=False), known, workers=2, ahead=0)
    feed.start(iter([stream.step(stream.order(0), 0, 0, Replacements(index, "stop", None))]))
    step = feed.take()
    assert step is not None
    feed.close()
    return [None if row in step.ours else bytes(step.encoded[row]) for row in range(len(index))]


def mixed(image_files: Any, make_bad_file: Callable) -> ImageIndex:
    """A plain JPEG, one with metadata, one with much, one that is no plain JPEG."""
    image_files.fill(classes=1, each=1)
    plain = make_bad_file("progressive")
    for name, data in (("one", with_metadata(plain)), ("two", with_much_metadata(plain)), ("x", make_bad_file("cmyk"))):
        image_files.add(f"c0/{name}.jpg", 0, data)
    return image_files.load(classes=1).train


def test_what_is_known_gives_the_same_bytes_without_a_look(
    image_files: Any, make_bad_file: Callable, looked: list[bytes]
) -> None:
    index = mixed(image_files, make_bad_file)
    plain = make_bad_file("progressive")
    known = Looks(index)
    expected = [index.file(0).read_bytes(), plain, plain, None]
    assert fed(index, known) == expected
    assert len(looked) == 4
    for again in (known, known, _saved(known, index)):
        assert fed(index, again) == expected
    assert len(looked) == 4


def _saved(known: Looks, index: ImageIndex) -> Looks:
    """As a later process finds them."""
    known.save()
    return Looks(index)


def rewritten(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def replaced(file: Path, data: bytes) -> None:
    other = file.with_name("other")
    other.write_bytes(data)
    other.rename(file)


def rewritten_with_the_old_time(file: Path, data: bytes) -> None:
    before = file.stat()
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [rewritten, replaced, rewritten_with_the_old_time])
def test_a_file_that_changed_is_looked_at_again(
    change: Callable[[Path, bytes], None], image_files: Any, make_bad_file: Callable, looked: list[bytes]
) -> None:
    """Of the same size, in bytes and in pixels, or not."""
    index = mixed(image_files, make_bad_file)
    known, file = Looks(index), index.file(1)
    fed(index, known)
    whole = file.read_bytes()
    damaged = whole[:-40] + b"\xff\x02" + whole[-38:]
    for data, got in ((damaged, None), (whole, make_bad_file("progressive")), (whole + b"\0", None)):
        looked.clear()
        change(file, data)
        for _ in range(2):
            assert fed(index, known)[1] == got
        assert looked == [data]


def test_a_file_that_changes_while_it_is_read_is_looked_at_again(
    image_files: Any, make_bad_file: Callable, looked: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its condition was found to be the old one."""
    index = mixed(image_files, make_bad_file)
    known, file = Looks(index), index.file(1)
    fed(index, known)
    whole = file.read_bytes()
    damaged = whole[:-40] + b"\xff\x02" + whole[-38:]
    read_into = reading.ImageFile.read_into
    times = []

    def change_first(self: reading.ImageFile, offset: int, out: memoryview) -> bool:
        if len(out) == len(whole) - 30 and not times:  # the second part of that file
            times.append(1)
            file.write_bytes(damaged)
        return read_into(self, offset, out)

    monkeypatch.setattr(reading.ImageFile, "read_into", change_first)
    looked.clear()
    assert fed(index, known)[1] is None
    assert (times, looked) == ([1], [damaged])


def test_a_file_that_lost_its_end_is_looked_at_again(
    image_files: Any, make_bad_file: Callable, looked: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system does not tell: what is read is shorter than it was."""
    index = mixed(image_files, make_bad_file)
    known = Looks(index)
    before = {i: index.file(i).stat() for i in range(4)}
    fed(index, known)
    as_before = {
        status.st_ino: Condition(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        for status in before.values()
    }
    condition = reading.ImageFile.condition
    monkeypatch.setattr(reading.ImageFile, "condition", lambda self: as_before[condition(self).inode])
    with index.file(1).open("r+b") as file:
        file.truncate(before[1].st_size - 100)
    looked.clear()
    assert fed(index, known)[1] is None
    assert [len(data) for data in looked] == [before[1].st_size - 100]


def test_members_of_shards_are_known_as_long_as_their_shard_is_the_same(
    image_files: Any, make_bad_file: Callable, looked: list[bytes]
) -> None:
    mixed(image_files, make_bad_file)
    folder = image_files.root.parent / "pack"
    pack.run("list", folder, **image_files.options())
    index = load_data_set("list", data_root=folder, cache_dir=image_files.cache).train
    known = Looks(index)
    expected = fed(index, known)
    assert expected[1:] == [make_bad_file("progressive"), make_bad_file("progressive"), None]
    assert fed(index, _saved(known, index)) == expected
    assert len(looked) == 4
    offset, count = index.spans[1].tolist()
    with index.file(1).open("r+b") as shard:
        shard.seek(offset + count - 40)
        shard.write(b"\xff\x02")
    assert fed(index, _saved(known, index)) == [expected[0], None, *expected[2:]]
    assert len(looked) == 8


def test_files_of_this_moment_are_not_noted(the_clock: None, image_files: Any, looked: list[bytes]) -> None:
    """A change within the same tick of the file system's clock would not show."""
    index = image_files.fill(classes=1, each=3).load(classes=1).train
    known = Looks(index)
    for times in (1, 2):
        fed(index, known)
        assert len(looked) == 3 * times


@pytest.mark.parametrize("age_s", [0, 1.9, 2.1, 1000, -5])
@pytest.mark.parametrize("which", ["modified_ns", "changed_ns"])
def test_how_long_a_file_must_have_been_left_alone(the_clock: None, which: str, age_s: float, image_files: Any) -> None:
    known = Looks(image_files.fill(classes=1, each=1).load(classes=1).train)
    condition = LONG_AGO._replace(**{which: NOW_NS - round(age_s * 1e9)})
    known.note(0, condition, NOW_NS, None)
    assert known.known(0, condition) == (age_s > 2)


def test_nothing_is_known_of_another_condition(image_files: Any) -> None:
    known = Looks(image_files.fill(classes=1, each=2).load(classes=1).train)
    known.note(0, LONG_AGO, NOW_NS, ((0, 1000),))
    assert known.known(0, LONG_AGO)
    assert not known.known(1, LONG_AGO)
    for name in Condition._fields:
        assert not known.known(0, LONG_AGO._replace(**{name: getattr(LONG_AGO, name) + 1})), name


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        (None, None),
        (((0, 1000),), ((0, 1000),)),
        (((0, 20), (50, 1000)), ((0, 20), (50, 1000))),
        (((0, 20), (50, 60), (70, 1000)), ()),
    ],
)
def test_what_is_noted_is_found(parts: Any, kept: Any, image_files: Any) -> None:
    index = image_files.fill(classes=1, each=1).load(classes=1).train
    known = Looks(index)
    known.note(0, LONG_AGO, NOW_NS, parts)
    for found in (known, _saved(known, index)):
        assert found.known(0, LONG_AGO)
        assert found.parts(0, 1000) == kept


def test_they_are_of_one_index(image_files: Any) -> None:
    """Other labels, sizes or another place: other findings."""
    index = image_files.fill(classes=1, each=2).load(classes=1).train
    known = Looks(index)
    known.note(0, LONG_AGO, NOW_NS, None)
    assert _saved(known, index).known(0, LONG_AGO)
    for other in (dataclasses.replace(index, fingerprint="other"), dataclasses.replace(index, root=index.root / "c0")):
        assert not Looks(other).known(0, LONG_AGO)


def test_no_flipped_bit_is_believed(image_files: Any) -> None:
    index = image_files.fill(classes=1, each=3).load(classes=1).train
    known = Looks(index)
    for i, parts in enumerate((None, ((0, 1000),), ((0, 20), (50, 1000)))):
        known.note(i, LONG_AGO, NOW_NS, parts)
    expected = [known.parts(i, 1000) for i in range(3)]
    known.save()
    (file,) = (index.cache / "looks").iterdir()
    size, refused = file.stat().st_size, 0
    for _ in flipped_bits(file, step=3):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = Looks(index)
        if found.known(0, LONG_AGO):
            assert [found.parts(i, 1000) for i in range(3)] == expected  # a byte that means nothing, such as a time
        else:
            refused += 1
            assert "is damaged" in str(told[-1].message)
            assert not any(found.known(i, LONG_AGO) for i in range(3))
    assert refused > size / 12


@pytest.mark.parametrize(
    "changes",
    [
        {"cuts": np.zeros((4, 2), dtype=np.int32)},
        {"conditions": np.zeros(2, dtype=np.uint64)},
        {"conditions": np.zeros(3, dtype=np.int64)},
        *(
            {"cuts": np.array([[0, 0], [0, 0], cut], dtype=np.int32)}
            for cut in ([-3, 0], [5, 4], [-1, 9], [0, 9], [1, 9])
        ),
    ],
)
def test_columns_that_do_not_belong_together(changes: dict[str, np.ndarray], image_files: Any) -> None:
    """With a digest that holds, as somebody with a will would write it."""
    index = image_files.fill(classes=1, each=3).load(classes=1).train
    known = Looks(index)
    known.note(0, LONG_AGO, NOW_NS, None)
    known.save()
    (file,) = (index.cache / "looks").iterdir()
    with np.load(file) as stored:
        columns = {name: stored[name] for name in stored.files if name != "digest"} | changes
    np.savez(file, **columns, digest=np.frombuffer(digest_of(columns), dtype=np.uint8))
    with pytest.warns(FastliftWarning, match=r"is damaged .*: the JPEGs of list/train are looked at again"):
        assert not Looks(index).known(0, LONG_AGO)


def test_a_part_past_the_end_is_not_taken(image_files: Any, make_bad_file: Callable) -> None:
    """However it got there: such an image is not for DALI."""
    index = mixed(image_files, make_bad_file)
    known = Looks(index)
    fed(index, known)
    with reading.open_file(index, 1) as file:
        known.note(1, file.condition(), time.time_ns(), ((0, 20), (10**9, 10**9 + 1)))
    assert fed(index, known)[1] is None


def test_processes_add_to_what_others_have_kept(image_files: Any) -> None:
    """Ranks look at their own shares, and save when they have seen them."""
    index = image_files.fill(classes=1, each=4).load(classes=1).train
    ranks = [Looks(index) for _ in range(3)]
    for rank, known in enumerate(ranks):
        known.note(rank, LONG_AGO, NOW_NS, ((0, 20), (30 + rank, 1000)))
        known.save()
    found = Looks(index)
    assert [found.known(i, LONG_AGO) for i in range(4)] == [True, True, True, False]
    assert [found.parts(i, 1000)[1][0] for i in range(3)] == [30, 31, 32]
    ranks[0].note(1, LONG_AGO._replace(inode=8), NOW_NS, None)  # it has changed since
    ranks[0].save()
    assert Looks(index).known(1, LONG_AGO._replace(inode=8))
    assert ranks[0].known(2, LONG_AGO)  # learnt from the others


@pytest.mark.filterwarnings("error::fastlift.errors.FastliftWarning")
def test_many_write_at_once(image_files: Any) -> None:
    """Whoever reads meanwhile finds a whole file; what one of them lost of another comes back with its next save."""
    index = image_files.fill(classes=1, each=8).load(classes=1).train

    def work(rank: int) -> Looks:
        known = Looks(index)
        for _ in range(20):
            known.note(rank, LONG_AGO, NOW_NS, ((0, 20), (30 + rank, 1000)))
            known.save()
            Looks(index)
        return known

    with ThreadPoolExecutor(8) as pool:
        ranks = list(pool.map(work, range(8)))
    for rank, known in enumerate(ranks):
        known.note(rank, LONG_AGO, NOW_NS, ((0, 20), (30 + rank, 1000)))
        known.save()
    found = Looks(index)
    assert [found.known(i, LONG_AGO) for i in range(8)] == [True] * 8
    assert [found.parts(i, 1000)[1][0] for i in range(8)] == [30 + i for i in range(8)]


def test_a_cache_that_cannot_be_written_costs_nothing_else(image_files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    index = image_files.fill(classes=1, each=1).load(classes=1).train
    (index.cache / "looks").write_text("a file in the place of the folder")
    known = Looks(index)
    known.note(0, LONG_AGO, NOW_NS, None)
    known.save()
    (index.cache / "looks").unlink()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(looks, "write_columns", full)
    known.note(0, LONG_AGO, NOW_NS, None)
    known.save()
    assert known.known(0, LONG_AGO)


def test_memory_is_small() -> None:
    """For the largest sets that there are: 16 bytes a file."""
    index = ImageIndex.__new__(ImageIndex)
    for name, value in {"cache": None, "root": None, "labels": np.zeros(1_000_000, dtype=np.int8)}.items():
        object.__setattr__(index, name, value)
    known = Looks(index)
    assert sum(array.nbytes for array in vars(known).values() if isinstance(array, np.ndarray)) == 16_000_000


# ------------------------------------------------------------------------------------------- the loader


def make(index: ImageIndex, **options: Any) -> Loader:
    given: dict[str, Any] = {"crops": TrainCrops(32), "backend": "dali", "workers": 2, "cache_bytes": 0, **options}
    return make_loader(index, **given)


def images(loader: Loader, epoch: int, start: int = 0) -> torch.Tensor:
    return torch.cat([batch.images for batch in loader.epoch(epoch, start)])


@NEEDS_DALI
def test_the_loader_looks_once_a_file(image_files: Any, make_bad_file: Callable, looked: list[bytes]) -> None:
    """Over epochs, and for the next loader of the same data; with the pixels that the other backend makes."""
    image_files.fill(each=4)
    image_files.add("c0/x.jpg", 0, with_metadata(make_bad_file("progressive")))
    image_files.add("c0/y.png", 0, make_bad_file("alpha"))
    index = image_files.load().train
    plain, first, second = make(index, backend="torchvision"), make(index), make(index)
    expected = [images(plain, epoch) for epoch in range(3)]
    assert levels_apart(images(first, 0), expected[0]).max() < 0.35
    assert len(looked) == 14
    assert levels_apart(images(first, 1), expected[1]).max() < 0.35
    first.close()
    second.close()
    third = make(index)  # built after the first one had kept what it found
    assert levels_apart(images(third, 2), expected[2]).max() < 0.35
    assert len(looked) == 14


@NEEDS_DALI
def test_an_abandoned_epoch_keeps_what_it_found(image_files: Any, looked: list[bytes]) -> None:
    index = image_files.fill(each=8).load().train
    first = make(index)
    begun = first.epoch(0)
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    first.close()
    before = len(looked)
    assert before >= 4
    images(make(index), 0)
    assert len(looked) == 24


@NEEDS_DALI
def test_a_later_process_does_not_look_again(image_files: Any) -> None:
    image_files.fill(each=4)
    counts = []
    for _ in range(2):
        arguments = json.dumps({key: str(path) for key, path in image_files.options().items()})
        image_files.load()
        done = subprocess.run(
            [sys.executable, "-c", COUNT, arguments], capture_output=True, text=True, env=WITH_HELPERS
        )
        assert done.returncode == 0, done.stderr
        counts.append(json.loads(done.stdout))
    assert counts == [12, 0]


COUNT = """
import json, sys
from pathlib import Path
from fastlift.data.loading import looks
from fastlift.data.loading.dali import feed as dali_feed
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.sampling.crops import TrainCrops
from loaders import make_loader
looks.SETTLED_NS, seen, look = -10**18, [], dali_feed.plain_parts
dali_feed.plain_parts = lambda *a, **k: seen.append(1) or look(*a, **k)
index = load_data_set("list", **{key: Path(path) for key, path in json.loads(sys.argv[1]).items()}).train
loader = make_loader(index, TrainCrops(32), "dali", workers=2)
for epoch in range(2):
    for _ in loader.epoch(epoch):
        pass
loader.close()
print(len(seen))
"""


@NEEDS_DALI
@pytest.mark.parametrize("bad_images", ["stop", "skip"])
def test_damage_is_the_same_damage_when_it_is_known(bad_images: str, image_files: Any, looked: list[bytes]) -> None:
    """In the first epoch, in later ones, after resuming, and for a loader that knows of it from the cache."""
    index = image_files.fill(each=4, width=200, height=200).load().train
    file = index.file(6)
    whole = file.read_bytes()
    place = len(whole) * 9 // 10
    file.write_bytes(whole[:place] + b"\xff\x02" + whole[place:])
    found: list[list[tuple[int, str]]] = []
    results: list[torch.Tensor] = []
    for start in (0, 0, 1):
        bad: list[BadImage] = []
        loader = make(index, bad_images=bad_images, on_bad=bad.append)
        if bad_images == "stop":
            for _ in range(2):
                with pytest.raises(UserError, match=r"c1/2\.jpg cannot be decoded"):
                    images(loader, 0)
        else:
            results.append(images(loader, 0, start)[-8:])
            results.append(images(loader, 1)[-8:])
            found.append([(b.index, b.reason) for b in bad])
        loader.close()
    assert len(looked) == len(set(looked))  # no file twice
    assert all(torch.equal(results[k], results[k % 2]) for k in range(len(results)))
    assert found in ([], [found[0]] * 3 if found else [])
    if bad_images == "skip":
        assert [index for index, _ in found[0]] == [6]


@NEEDS_DALI
def test_a_file_replaced_between_epochs_shows_its_new_image(
    image_files: Any, encode: Callable, make_image: Callable
) -> None:
    index = image_files.fill(classes=1, each=4).load(classes=1).train
    loader = make(index, crops=EvalCrops(32), shuffle=False)
    before = [images(loader, epoch) for epoch in range(2)]
    index.file(1).write_bytes(encode(make_image(87, 60, seed=999), quality=90))
    after = images(loader, 2)
    assert torch.equal(before[0], before[1])
    assert [bool((after[k] == before[0][k]).all()) for k in range(4)] == [True, False, True, True]
    plain = images(make(index, backend="torchvision", crops=EvalCrops(32), shuffle=False), 0)
    assert levels_apart(after, plain).max() < 0.35


@NEEDS_DALI
def test_nothing_is_written_over_what_dali_decodes(image_files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is given back is spoilt at once: the pixels stay the same, so DALI was through with it."""
    index = image_files.fill(each=12).load().train
    undisturbed = make(index)
    expected = [images(undisturbed, epoch) for epoch in range(4)]
    clear, spoilt = dali_feed.Memory.clear, []

    def spoil(self: dali_feed.Memory) -> None:
        spoilt.append(self._used)
        self._room[:] = 0xFF
        clear(self)

    monkeypatch.setattr(dali_feed.Memory, "clear", spoil)
    dali = make(index)
    for epoch in range(4):
        assert torch.equal(images(dali, epoch), expected[epoch])
    assert sum(used > 0 for used in spoilt) >= 18  # from the second epoch on images lie there
