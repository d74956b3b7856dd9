"""The bounded cache: what is put is got, the least recently used leaves, and no state of the disk breaks it."""

import contextlib
import multiprocessing
import os
import random
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from fastlift.data.stores import cache as module
from fastlift.data.stores.cache import CacheSettings, DataCache
from fastlift.errors import FastliftWarning, UserError

TRAILER = module._TRAILER.size


def on_disk(folder: Path) -> int:
    """Bytes of everything in the folder but its own few bytes of bookkeeping."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size if name != "lock" else 0
    return total


def test_what_is_put_is_got(tmp_path: Path) -> None:
    cache = DataCache(tmp_path, 10_000)
    assert cache.get("a") is None
    cache.put("a", b"x" * 100)
    cache.put("empty", b"")
    assert (cache.get("a"), cache.get("empty"), cache.get("b")) == (b"x" * 100, b"", None)
    assert DataCache(tmp_path, 10_000).get("a") == b"x" * 100


def test_the_least_recently_used_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAVE", 1.0)
    cache = DataCache(tmp_path, 3 * (100 + TRAILER))
    for name in "abc":
        cache.put(name, name.encode() * 100)
        time.sleep(0.01)
    assert cache.get("a") is not None
    cache.put("d", b"d" * 100)
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]


def test_large_entries_leave_by_their_last_use_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAVE", 1.0)
    cache = DataCache(tmp_path, 300)
    for name in "abc":
        assert cache.put_large(name, 100, lambda descriptor: None)
        time.sleep(0.01)
    assert _has_large(cache, "a")
    assert cache.put_large("d", 100, lambda descriptor: None)
    assert [name for name in "abcd" if _has_large(cache, name)] == ["a", "c", "d"]


def _has_large(cache: DataCache, name: str) -> bool:
    if (descriptor := cache.open_large(name, 100)) is None:
        return False
    os.close(descriptor)
    return True


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    cache = DataCache(tmp_path, 1000)
    cache.put("small", b"x" * 100)
    cache.put("large", b"x" * 1000)
    assert not cache.put_large("larger", 1001, lambda descriptor: pytest.fail("nothing to write"))
    assert cache.get("large") is None
    assert cache.get("small") is not None


def test_never_more_than_the_bound(tmp_path: Path) -> None:
    """Counted before each write ends, drafts included, for entries of any size in any order."""
    most, draw = 50_000, random.Random(0)
    cache = DataCache(tmp_path, most)
    for k in range(300):
        size = draw.choice([1, 100, 5000, 20_000])
        if draw.random() < 0.2:
            cache.put_large(f"l{k}", size, lambda descriptor, size=size: _write(descriptor, size, tmp_path, most))
        else:
            cache.put(f"{draw.randrange(80)}", bytes(size))
        assert on_disk(tmp_path) <= most
        assert cache.used() == on_disk(tmp_path)
    assert on_disk(tmp_path) > most // 2


def _write(descriptor: int, size: int, folder: Path, most: int) -> None:
    assert on_disk(folder) <= most
    os.pwrite(descriptor, b"x" * size, 0)


def _fill(folder: Path, most: int, seed: int, end: float) -> None:
    cache, draw = DataCache(folder, most), random.Random(seed)
    while time.monotonic() < end:
        key = draw.randrange(200)
        if (data := cache.get(str(key))) is None:
            cache.put(str(key), bytes([key]) * (100 * (key % 30)))
        else:
            assert data == bytes([key]) * (100 * (key % 30))
    os._exit(0)


def test_processes_share_the_bound_and_kills_leave_nothing(tmp_path: Path) -> None:
    """Three processes fill one folder, one of them is killed in the middle: never more than the bound, and no wrong byte."""
    most, context = 60_000, multiprocessing.get_context("fork")
    cache, now = DataCache(tmp_path, most), time.monotonic()
    ends = (now + 60, now + 1.5, now + 1.5)
    processes = [context.Process(target=_fill, args=(tmp_path, most, seed, end)) for seed, end in enumerate(ends)]
    for process in processes:
        process.start()
    looks = 0
    while processes[1].is_alive():
        with cache._locked():  # files come under the lock alone, so that what is listed is of one moment
            assert on_disk(tmp_path) <= most
        looks += 1
        if time.monotonic() > now + 0.8:
            processes[0].kill()
        time.sleep(0.005)
    processes[0].kill()  # where this one came to nothing in the last moments
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [-9, 0, 0]
    assert looks > 10
    cache = DataCache(tmp_path, most)
    assert on_disk(tmp_path) <= most
    assert not list(tmp_path.rglob(f"*{module._DRAFT}"))
    assert cache._count() == on_disk(tmp_path)


def test_a_killed_writer_leaves_room(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")

    def die(descriptor: int) -> None:
        os.kill(os.getpid(), 9)

    process = context.Process(target=lambda: DataCache(tmp_path, 10_000).put_large("a", 9000, die))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert on_disk(tmp_path) == 9000
    cache = DataCache(tmp_path, 10_000)
    cache.put("b", bytes(5000))
    assert cache.get("b") == bytes(5000)
    assert on_disk(tmp_path) < 9000
    assert cache.open_large("a", 9000) is None


def test_damage_is_found(tmp_path: Path) -> None:
    cache = DataCache(tmp_path, 10_000)
    cache.put("a", bytes(100))
    file = Path(cache._file("a"))
    whole = file.read_bytes()
    for damaged in (whole[:50], b"", whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], bytes(len(whole))):
        file.write_bytes(damaged)
        assert cache.get("a") is None
        assert not file.exists()
        cache.put("a", bytes(100))
        assert cache.get("a") == bytes(100)


def test_large_entries_are_read_by_parts_and_cut_ones_are_none(tmp_path: Path) -> None:
    cache = DataCache(tmp_path, 10_000)
    assert cache.put_large("a", 8, lambda descriptor: os.write(descriptor, b"01234567"))  # type: ignore[arg-type,return-value]
    descriptor = cache.open_large("a", 8)
    assert descriptor is not None
    assert os.pread(descriptor, 3, 2) == b"234"
    os.close(descriptor)
    assert cache.open_large("a", 9) is None
    assert cache.open_large("a", 8) is None  # it was of another size than it should be, and is gone


def test_a_full_disk_is_told_once_and_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DataCache(tmp_path, 10_000)
    cache.put("a", bytes(100))

    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    with pytest.warns(FastliftWarning, match=r"takes no more .No space left on device.: reading goes on"):
        cache.put("b", bytes(100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put("c", bytes(100))
    assert (cache.get("a"), cache.get("b")) == (bytes(100), None)
    assert on_disk(tmp_path) == 100 + TRAILER == cache._count()


def test_an_error_of_the_writer_leaves_nothing(tmp_path: Path) -> None:
    cache = DataCache(tmp_path, 10_000)

    def fail(descriptor: int) -> None:
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        cache.put_large("a", 100, fail)
    assert on_disk(tmp_path) == 0 == cache._count()


def test_settings(tmp_path: Path) -> None:
    assert CacheSettings(data_cache_gb=0).build(tmp_path) is None
    cache = CacheSettings(data_cache_gb=0.5).build(tmp_path)
    assert cache is not None
    assert (cache.folder, cache.most_bytes) == (tmp_path / "stores", 500_000_000)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--data-cache .*file cannot be used"):
        CacheSettings(str(tmp_path / "file")).build(tmp_path)


def test_what_is_being_written_counts(tmp_path: Path) -> None:
    """Nothing is kept beside a draft that leaves no room for it."""
    cache = DataCache(tmp_path, 10_000)

    def write(descriptor: int) -> None:
        cache.put("b", bytes(5000))
        assert on_disk(tmp_path) == 8000

    assert cache.put_large("a", 8000, write)
    assert cache.get("b") is None


def test_a_lower_bound_holds_at_once(tmp_path: Path) -> None:
    cache = DataCache(tmp_path, 10_000)
    for k in range(9):
        cache.put(str(k), bytes(1000))
    DataCache(tmp_path, 3000)
    assert on_disk(tmp_path) <= 3000
