"""List files, class names, folders and the published sets: what is accepted, and one message for all that is wrong."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fastlift.data.index import lists
from fastlift.data.index.index import PathTable
from fastlift.data.index.lines import line_blocks
from fastlift.data.index.lists import Listing, _parse_line, leaves_root, parse_class_names, parse_list
from fastlift.data.index.problems import Problems
from fastlift.errors import UserError


def parse(text: str, num_classes: int | None, problems: Problems, source: str = "list") -> Listing:
    return parse_list([text.encode("utf-8", "surrogateescape")], source, num_classes, problems)


def test_lines_with_spaces_and_blank_lines() -> None:
    problems = Problems("x")
    listing = parse("a b/c d.jpg 1\n\n  e.jpg   0 \n", 2, problems)
    assert list(listing.paths) == ["a b/c d.jpg", "e.jpg"]
    assert listing.labels.tolist() == [1, 0]
    assert problems.total == 0


def test_every_kind_of_bad_line_is_named_and_only_ten_are_shown() -> None:
    problems = Problems("train")
    text = "a.jpg\nb.jpg x\nc.jpg 5\nd.jpg -1\n../e.jpg 0\n/f.jpg 0\ng/../../h.jpg 0\n" + "i.jpg 9\n" * 20
    parse(text, 5, problems, "train.txt")
    assert problems.total == 27
    message = problems.message()
    assert "27 problems, the first 10:" in message
    assert len(message.splitlines()) == 11
    for part in ("line 1: no label", "line 2: no label", "line 3: label 5 is out of range (0..4)", "line 4: label -1"):
        assert part in message
    assert message.count("leaves the data root") == 3


def test_bad_lines_without_end_are_not_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gzipped list of a few KiB could hold millions of them: their messages would fill the memory."""
    monkeypatch.setattr(lists, "MOST_BAD", 50)
    read, problems = [], Problems("train")

    def blocks() -> Iterator[bytes]:
        for number in range(3):
            read.append(number)
            yield b"x\n" * 40 + b"a.jpg 1\n"

    parse_list(blocks(), "list", 5, problems)
    assert problems.total == 51
    assert problems.entries[-1] == "list: more than 50 lines are bad; the others were not read"
    assert read == [0, 1]


@pytest.mark.parametrize(
    ("path", "leaves"),
    [
        ("a/b.jpg", False),
        ("a/../b.jpg", False),
        ("..b/c.jpg", False),
        ("../b", True),
        ("/b", True),
        ("a/../../b", True),
    ],
)
def test_paths_that_leave_the_root(path: str, leaves: bool) -> None:
    assert leaves_root(path) is leaves


@pytest.mark.parametrize(
    ("text", "folders", "expected"),
    [
        ("n01440764 tench\nn01443537 gold fish\n", [], ("tench", "gold fish")),
        ("striped red star\nblue ring\n", [], ("striped red star", "blue ring")),
        ("airfield airfield\nattic my attic\n", ["airfield", "attic"], ("airfield", "my attic")),
        ("airfield airfield\nattic my attic\n", ["airfield", None], ("airfield", "my attic")),
        ("sand sand\nroad a road\nsea sea\n", ["road", "sand", None], ("a road", "sand", "sea")),
        ("1 one\n0 zero\n", ["0", "1"], ("zero", "one")),
        ("red star\nblue ring\n", ["a", "b"], ("red star", "blue ring")),
        ("cat\ndog\n", ["cat", "dog"], ("cat", "dog")),
    ],
)
def test_class_names_with_and_without_folders(text: str, folders: list[str | None], expected: tuple[str, ...]) -> None:
    assert parse_class_names(text.rstrip().split("\n"), "x", lambda: folders) == expected


@pytest.mark.parametrize("text", ["", "a\n\nb\n"])
def test_class_names_with_holes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="empty"):
        parse_class_names(text.rstrip().split("\n"), "x")


@pytest.mark.parametrize("label", ["\u00b2", "--5", "1.0", "x"])
def test_what_is_no_label(label: str) -> None:
    problems = Problems("x")
    parse(f"a.jpg 0\nb.jpg {label}\n", 3, problems)
    assert len(problems.entries) == 1
    assert "list line 2: no label" in problems.entries[0]


@pytest.mark.parametrize("classes", [3, None])
def test_a_label_beyond_all_numbers(classes: int | None) -> None:
    problems = Problems("x")
    parse(f"a.jpg 0\nb.jpg {10**30}\n", classes, problems)
    assert "is out of range" in problems.entries[0]


def test_null_characters_are_told() -> None:
    problems = Problems("x")
    assert len(parse("a\0b.jpg 0\nc.jpg 1\n", 3, problems).paths) == 1
    assert "null character" in problems.entries[0]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_and_no_others(end: str, tmp_path: Path) -> None:
    """Line separators of Unicode may stand in file names."""
    problems = Problems("x")
    (tmp_path / "list").write_text(f"a\u2028b.jpg 0{end}c\x85d.jpg 1{end}", encoding="utf-8", newline="")
    listing = parse_list(line_blocks(tmp_path / "list"), "list", 2, problems)
    assert list(listing.paths) == ["a\u2028b.jpg", "c\x85d.jpg"]
    assert not problems.entries


def test_class_names_that_are_no_text() -> None:
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        parse_class_names(b"cat\ncaf\xe9".decode("utf-8", "surrogateescape").split("\n"), "names")


@pytest.mark.parametrize("num_classes", [7, None])
def test_lines_in_columns_are_read_as_lines_by_themselves(num_classes: int | None) -> None:
    """Ordinary lines are read by the million, odd ones one by one: a mixture of both, against one by one."""
    random = np.random.default_rng(0)
    pieces = [*"ab/.: \t\\", "..", "\u3000", "\x85", "\udcff", "\0", "é", "c/d.jpg", "\x1c", "-"]
    ends = [
        *(f" {k}" for k in range(9)),
        "  3",
        " 3 ",
        "\t3",
        "\u30003",
        " 03",
        " 99999999999",
        " 2147483647",
        " -1",
        "",
        "5",
        " ",
    ]
    for _ in range(30):
        lines = []
        for _ in range(40):
            size = random.integers(0, 6)
            path = "x/y.jpg" if random.random() < 0.3 else "".join(random.choice(pieces, size))
            lines.append(path + str(random.choice(ends)))
        problems, expected = Problems("x"), []
        listing = parse("".join(f"{line}\n" for line in lines), num_classes, problems)
        told = []
        for number, line in enumerate(lines, start=1):
            try:
                found = _parse_line(line, num_classes)
            except ValueError as error:
                told.append(f"list line {number}: {error}")
            else:
                expected += [] if found is None else [found]
        assert list(zip(listing.paths, listing.labels.tolist(), strict=True)) == expected
        assert problems.entries == (told or ([] if expected else ["list: no lines"]))


def test_folders_of_paths() -> None:
    paths = ["a/b/c.jpg", "c.jpg", "b/c.jpg", "/c", "é/d e/f", "a/b/"]
    assert list(PathTable.from_strings(paths).folders()) == ["b", "", "b", "", "d e", "b"]
    table = PathTable.from_strings(paths)
    assert list(table.take(np.array([4, 0, 0]))) == ["é/d e/f", "a/b/c.jpg", "a/b/c.jpg"]
    assert list(PathTable.joined([table, table.take(np.array([1]))])) == [*paths, "c.jpg"]
    assert list(PathTable.joined([])) == []
