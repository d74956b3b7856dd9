"""``data check`` finds everything."""

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastlift.data.inspection.check import check
from fastlift.errors import UserError


def text_of(renderable: Any) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_fine_set(image_files: Any) -> None:
    image_files.fill().load()
    found = check("list", decode=True, **image_files.options())
    assert found.ok
    assert found.looked_at == "pictures"
    assert (found.images, found.classes) == ({"train": 15, "test": 15}, 3)
    assert "fine. 15 training" in text_of(found.render())
    assert json.loads(json.dumps(found.to_dict()))["ok"] is True


def test_all_problems_are_in_the_result_and_ten_on_the_screen(image_files: Any) -> None:
    image_files.fill().load()
    for k in range(5):
        (image_files.root / "c1" / f"{k}.jpg").write_bytes(b"")
        (image_files.root / "c2" / f"{k}.jpg").unlink()
    (image_files.root / "c0" / "0.jpg").write_bytes(b"no image")
    found = check("list", **image_files.options())
    assert not found.ok
    assert len(found.problems) == 11  # the test split lists the same files, which are told once
    shown = text_of(found.render())
    assert "11 problems, the first 10" in shown
    assert shown.count(".jpg: ") == 10


def test_decoding_finds_what_headers_hide(image_files: Any, make_bad_file: Callable) -> None:
    """A file whose middle is cut out keeps its header and its end marker."""
    image_files.fill()
    png = make_bad_file("alpha")
    image_files.add("c0/holed.png", 0, png[: len(png) // 3] + png[-2 * (len(png) // 3) + 1000 :])
    image_files.load()
    assert check("list", **image_files.options()).ok
    found = check("list", decode=True, **image_files.options())
    assert [problem.split(": ")[0].rsplit("/", 1)[1] for problem in found.problems] == ["holed.png"]


def test_an_image_is_told_once_though_both_splits_list_it(
    image_files: Any, encode: Callable, make_image: Callable
) -> None:
    """Pillow names what it cannot identify by its place in memory, another one each time."""
    data = bytearray(encode(make_image(60, 40)))
    data[data.index(b"\xff\xc0") + 9] = 2  # components, of which no decoder makes an image
    image_files.fill().add("c0/odd.jpg", 0, bytes(data))
    image_files.load()
    found = check("list", decode=True, **image_files.options())
    assert list(found.problems) == [f"{image_files.root}/c0/odd.jpg: cannot be decoded (cannot identify image file)"]


def test_decoding_goes_on_beside_bad_headers(image_files: Any, make_bad_file: Callable) -> None:
    image_files.fill()
    png = make_bad_file("alpha")
    image_files.add("c0/holed.png", 0, png[: len(png) // 3] + png[-2 * (len(png) // 3) + 1000 :])
    image_files.load()
    (image_files.root / "c1" / "2.jpg").write_bytes(b"")
    found = check("list", decode=True, **image_files.options())
    assert found.looked_at == "pictures"
    assert sorted(problem.split(": ")[0].rsplit("/", 1)[1] for problem in found.problems) == ["2.jpg", "holed.png"]
    (image_files.root.parent / "train.txt").write_text("c0/0.jpg\n")
    assert "No image was decoded" in check("list", decode=True, **image_files.options()).hint


GOOD_LIST, GOOD_NAMES = b"c0/0.jpg 0\nc1/0.jpg 1\nc2/0.jpg 2\n", b"thing a\nthing b\nthing c\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train", b"", "no lines"),
        ("train", b"c0/0.jpg -1\n" + GOOD_LIST, "line 1: label -1 is out of range"),
        ("train", GOOD_LIST + b"c0/0.jpg 9223372036854775808\n", "line 4: label 9223372036854775808 is out of range"),
        ("train", GOOD_LIST + b"c0/0.jpg " + b"9" * 400 + b"\n", "line 4: label 9{40} is out of range"),
        ("train", b"c0/0.jpg 0\nc2/0.jpg 2\n", "class 1 .* has no image"),
        ("train", GOOD_LIST + b"c0/\x000.jpg 0\n", "line 4: a null character"),
        ("train", bytes(2**23), "line 1 is longer than"),
        ("train", GOOD_LIST.decode().encode("utf-16"), "is UTF-16"),
        ("train", GOOD_LIST.decode().encode("utf-16-le"), "line 1: no label"),
        ("train", GOOD_LIST + b"../c0/0.jpg 0\n", "line 4: path leaves the data root"),
        ("train", GOOD_LIST + b"\x1b[2J.jpg\n", r"line 4: no label: '\\x1b\[2J"),
        ("train", GOOD_LIST + b"n" * 5000 + b".jpg 0\n", "cannot be opened"),
        ("train", b"\x1f\x8b" + GOOD_LIST, "cannot be read"),
        ("names", b"", "the file is empty"),
        ("names", b"a\n\nb\n", "line 2 is empty"),
        ("names", b"a\nb\xff\nc\n", "line 2 is not UTF-8"),
        ("names", GOOD_NAMES.decode().encode("utf-16"), "is UTF-16"),
        ("names", b"x" * 2**23, "line 1 is longer than"),
        ("names", b"a\nb\n", r"label 2 is out of range \(0\.\.1\)"),
        ("names", b"a\nb\nc\nd\n", "class 3 .* has no image"),
        ("train", GOOD_LIST.replace(b"\n", b"\r\n"), ""),
        ("train", b"\xef\xbb\xbf" + GOOD_LIST, ""),
        ("names", b"\xef\xbb\xbf" + GOOD_NAMES.replace(b"\n", b"\r"), ""),
    ],
)
def test_lists_of_strangers(file: str, content: bytes, message: str, image_files: Any, tmp_path: Path) -> None:
    """Each is told, in the check's list or as the one reason why there is nothing to check; or is fine."""
    image_files.fill()
    files = {"train": GOOD_LIST, "names": GOOD_NAMES, file: content}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "test").write_bytes(GOOD_LIST)
    lists = {f"{name}_list": tmp_path / name for name in ("train", "test")}
    try:
        found = check(
            "list", data_root=image_files.root, class_names=tmp_path / "names", cache_dir=image_files.cache, **lists
        )
    except UserError as error:
        told = str(error)
    else:
        told = "\n".join(found.problems)
    assert bool(told) == bool(message)
    assert re.search(message, told)
