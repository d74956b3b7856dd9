"""Reading of list files: in blocks of whole lines, whatever the line ends, and nothing that fills the memory."""

import gzip
import os
from pathlib import Path

import pytest

from fastlift.data.index import lines
from fastlift.data.index.lines import LONGEST_LINE, content_digest, line_blocks, read_lines, read_text
from fastlift.errors import UserError


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
@pytest.mark.parametrize(
    "content", [b"", b"a", b"a\n", b"a\r\nb\rc\n\n\r\n\rd", b"a\r", b"\r\n", b"\n\n", b"x y 1\r\nz 2\r\n"]
)
def test_blocks_are_whole_lines(content: bytes, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", size)
    (tmp_path / "list").write_bytes(content)
    blocks = list(line_blocks(tmp_path / "list"))
    assert all(block.endswith(b"\n") for block in blocks)
    unix = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert b"".join(blocks) == (unix if unix.endswith(b"\n") or not unix else unix + b"\n")


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"a 0\n")
    (tmp_path / "list.gz").write_bytes(gzip.compress(b"a 0\n"))
    assert content_digest(tmp_path / "list") == content_digest(tmp_path / "list.gz")
    (tmp_path / "list").write_bytes(b"a 1\n")
    assert content_digest(tmp_path / "list") != content_digest(tmp_path / "list.gz")


@pytest.mark.parametrize("read", [lambda path: list(line_blocks(path)), read_lines])
def test_a_file_without_line_ends_is_refused_at_its_first_block(read: object, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    with file.open("wb") as holes:
        holes.write(b"a 0\n")
        holes.truncate(2**40)  # a TiB of zeros that takes no room: to read it all would be noticed
    with pytest.raises(UserError, match=f"line 2 is longer than {LONGEST_LINE:,} bytes"):
        read(file)  # type: ignore[operator]


def test_texts_that_are_read_whole_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LARGEST_TEXT", 1000)
    (tmp_path / "bomb.json").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(UserError, match="holds more than 1,000 bytes"):
        read_text(tmp_path / "bomb.json")


def test_lines_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few packed KiB may stand for as many lines as fill the memory."""
    monkeypatch.setattr(lines, "MOST_NAMES", 1000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"a 0\n" * 1001))
    for read in (lambda path: list(line_blocks(path, 1000)), read_lines):
        with pytest.raises(UserError, match="it has more than 1,000 lines"):
            read(tmp_path / "bomb.gz")
    (tmp_path / "list").write_bytes(b"a 0\n" * 1000)
    assert len(read_lines(tmp_path / "list")) == 1000


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "no regular file"), (".", "a folder"), ("none", "does not exist")):
        with pytest.raises(UserError, match=reason):
            list(line_blocks(tmp_path / name))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"a 0\n" * 100)[:-9])
    with pytest.raises(UserError, match="cannot be read"):
        list(line_blocks(tmp_path / "cut.gz"))


def test_encodings(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("a.jpg 0\n", encoding="utf-8-sig")
    assert (read_text(file), b"".join(line_blocks(file))) == ("a.jpg 0\n", b"a.jpg 0\n")
    file.write_text("a.jpg 0\n", encoding="utf-16")
    with pytest.raises(UserError, match="UTF-16"):
        read_text(file)
