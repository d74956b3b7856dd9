"""Images by their places: each once, in the order of their paths, and what is missing is told before anything is read."""

from __future__ import annotations

import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from fastlift.data.datasets.folder import images_in
from fastlift.data.image_sources import ImageSources
from fastlift.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for name in (
        "b.jpg", "a/z.PNG", "a/y.jpg", "a-b/x.webp", "a.jpg", "a/deep/er/w.tiff",
        ".hidden.jpg", ".git/v.jpg", "notes.txt", "a/list.csv",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def names(*places: str | Path, **more: object) -> list[str]:
    return [found.name for found in ImageSources(places, **more)]  # type: ignore[arg-type]


def test_a_folder_is_searched_in_the_order_of_paths(folder: Path) -> None:
    found = [os.path.relpath(path, folder) for path in images_in(folder)]
    assert found == ["a-b/x.webp", "a.jpg", "a/deep/er/w.tiff", "a/y.jpg", "a/z.PNG", "b.jpg"]
    assert found == sorted(found)


def test_links_are_followed_once_and_never_in_circles(folder: Path) -> None:
    (folder / "a" / "up").symlink_to(folder)
    (folder / "c").symlink_to(folder / "a-b")
    (folder / "d").symlink_to(folder / "a-b")
    (folder / "gone").symlink_to(folder / "nowhere")
    found = [os.path.relpath(path, folder) for path in images_in(folder)]
    assert found == ["a-b/x.webp", "a.jpg", "a/deep/er/w.tiff", "a/y.jpg", "a/z.PNG", "b.jpg"]


def test_places_of_all_kinds_one_after_another(folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        with tarfile.open(tmp_path / f"part-{number}.tar", "w") as tar:
            for name in (f"{number}.jpg", f"{number}.cls", ".hidden.png", "__notes.png", f"deep/{number}.png"):
                (tmp_path / "member").write_bytes(name.encode())
                tar.add(tmp_path / "member", name)
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\xef\xbb\xbf%s\r\n\n  \nmissing.jpg\n" % os.fsencode(folder / "b.jpg"))
    sources = ImageSources([folder / "a-b", str(tmp_path / "part-{0..1}.tar"), folder / "a.jpg"], [listed])
    found = list(sources)
    assert [one.name for one in found] == [
        str(folder / "a-b" / "x.webp"),
        *(f"{tmp_path}/part-{number}.tar/{name}" for number in range(2) for name in (f"{number}.jpg", f"deep/{number}.png")),
        str(folder / "a.jpg"),
        str(folder / "b.jpg"),
        "missing.jpg",
    ]  # fmt: skip
    assert list(sources) == found, "again from the start"
    offset, size = found[2].span  # type: ignore[misc]
    assert Path(found[2].path).read_bytes()[offset : offset + size] == b"deep/0.png"
    assert sources.count() is None
    assert ImageSources([folder], [listed]).count() == 6 + 2


def test_patterns(folder: Path) -> None:
    assert [Path(name).name for name in names(str(folder / "**" / "*.*"))] == [
        "x.webp", "a.jpg", "w.tiff", "y.jpg", "z.PNG", "b.jpg",
    ]  # fmt: skip
    assert [Path(name).name for name in names(str(folder / "a*"))] == ["a.jpg"], "files, where there are some"
    assert [Path(name).name for name in names(str(folder / "a[!.]*"))] == ["x.webp"], "else what the folders hold"
    odd = folder / "[1].jpg"
    odd.write_bytes(b"")
    assert names(odd) == [str(odd)], "a file of this name is no pattern"


@pytest.mark.parametrize("end", [2100, -1])
def test_a_damaged_shard_is_told_behind_what_can_be_read(tmp_path: Path, end: int) -> None:
    shard = tmp_path / "some.tar"
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("1.jpg", "2.jpg"):
            (tmp_path / name).write_bytes(b"x" * 600)
            tar.add(tmp_path / name, name)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:end] if end > 0 else b"no tar" + whole)
    found = list(ImageSources([shard]))
    assert found[-1].name == str(shard)
    assert found[-1].problem.startswith("is truncated" if end > 0 else "is no tar file")
    assert [Path(one.name).name for one in found[:-1]] == (["1.jpg"] if end > 0 else [])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("gone.jpg", "no such file or folder: gone.jpg"),
        ("gone-{0..2}.tar", "no such file or folder: gone-0.tar, gone-1.tar, gone-2.tar"),
        ("gone*", r"nothing matches gone\*"),
        ("note*", r"nothing that could be an image matches note\*"),
    ],
)
def test_missing_places(place: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        ImageSources(["a.jpg", place])


def test_many_missing_places_are_counted() -> None:
    with pytest.raises(UserError, match=r"gone-9 and 13 more$"):
        ImageSources([f"gone-{number}" for number in range(23)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "names no image"),
        (b"\n\r\n", "names no image"),
        (b"one.jpg 3\ntwo.jpg 4\n", "none of the first 2 paths of .* exists, such as one.jpg 3"),
    ],
)
def test_lists_that_are_none(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "list").write_bytes(content)
    with pytest.raises(UserError, match=message):
        ImageSources([], [tmp_path / "list"])


def test_a_list_of_any_length_takes_no_memory(tmp_path: Path, folder: Path) -> None:
    """Two hundred thousand lines, 10 MB: less than 1 MB of memory."""
    listed = tmp_path / "list"
    listed.write_bytes(
        os.fsencode(folder / "b.jpg") + b"\n" + b"/some/where/else/there/lies/an/image/of/this/name.jpg\n" * 200_000
    )
    sources = ImageSources([], [listed])
    tracemalloc.start()
    try:
        assert sources.count() == 200_001
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
