"""Files are whole or not there, whatever happens while they are written; JSON is what the standard says."""

import errno
import os
from pathlib import Path

import pytest
from faults import Killed, contents, dying, kills, refuses

from fastlift.errors import UserError
from fastlift.system import files
from fastlift.system.files import append_line, cache_folder, parse_json, read_json, sweep, write_atomically, write_json


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})
    old = file.read_bytes()
    seen = set()
    for _ in kills(monkeypatch, lambda: file.write_bytes(old), lambda: write_json(file, {"new": 2})):
        seen.add(file.read_text())
        assert file.read_bytes() == old or read_json(file) == {"new": 2}
        sweep(tmp_path)
        assert os.listdir(tmp_path) == ["a.json"], "what a kill leaves half-written is recognised"
    assert len(seen) == 2, "kills before and after the step that decides"


def test_what_a_kill_left_goes_with_the_next_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed), dying(monkeypatch, before=4):
        write_json(tmp_path / "a.json", {})
    assert len(os.listdir(tmp_path)) == 1
    write_json(tmp_path / "b.json", {})
    assert len(os.listdir(tmp_path)) == 2, "another file's leftovers may be anybody's"
    write_json(tmp_path / "a.json", {})
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]


def test_drafts_of_the_living_stay(tmp_path: Path) -> None:
    def write(part: Path) -> None:
        part.write_text("{}")
        sweep(tmp_path)
        assert part.is_file()

    write_atomically(tmp_path / "a.json", write)
    assert os.listdir(tmp_path) == ["a.json"]


def test_without_locks_only_old_drafts_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", refuses(errno.ENOLCK))
    young, old = tmp_path / ".a.json.abcdefgh.part", tmp_path / ".a.json.12345678.part"
    young.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    write_json(tmp_path / "a.json", {})
    assert sorted(os.listdir(tmp_path)) == [young.name, "a.json"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["mkdir", "chmod", "fsync", "replace"])
def test_a_disk_that_refuses_keeps_the_old_file(
    call: str, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuses(error))
        with pytest.raises(OSError, match=os.strerror(error)) as caught:
            write_json(file, {"new": 2})
    assert caught.value.filename == str(file)
    assert contents(tmp_path) == {"a.json": b'{\n  "old": 1\n}\n'}


def test_libraries_may_leave_what_they_like_beside_a_draft(tmp_path: Path) -> None:
    def write(part: Path) -> None:
        (part.parent / ".tmpAbCdEf").write_text("as safetensors does")
        part.write_text("{}")

    write_atomically(tmp_path / "a.json", write)
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_who_may_read_is_the_users_choice(mask: int, tmp_path: Path) -> None:
    """Whatever a library thinks of it."""

    def write(part: Path) -> None:
        part.unlink()
        part.write_text("{}")
        part.chmod(0o640)

    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a.json", write)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    name = "ü" * 125 + ".json"
    write_json(tmp_path / name, {})
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(OSError, match="too long"):
        write_json(tmp_path / (name + "x"), {})


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError) as caught:
        write_json(tmp_path / "file" / "a.json", {})
    assert caught.value.filename == str(tmp_path / "file")


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match=f"{name} is a device or a pipe"):
            write_json(tmp_path / name, {})
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]
    assert (tmp_path / "link").is_symlink()


def test_a_folder_that_vanished_does_not_come_back(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_json(tmp_path / "gone" / "a.json", {}, parents=False)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("left", [b"", b"first\n", b"first\nsecond li", b"half"])
def test_appending_drops_half_a_line(left: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(left)
    append_line(tmp_path / "a.txt", b"next")
    assert (tmp_path / "a.txt").read_bytes() == left[: left.rfind(b"\n") + 1] + b"next\n"


def test_a_full_disk_takes_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_line(tmp_path / "a.txt", b"first")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    with pytest.raises(OSError, match="No space") as caught:
        append_line(tmp_path / "a.txt", b"second")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "first\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 400 + b"}", "99999999999999999999... of 400 digits is too large"),
        (b'{"a": -' + b"9" * 5000 + b"}", "too large"),
        (b'{"a": 18446744073709551616}', "too large"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": ' + b"[" * 100_000, "nested"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested more than 64"),
        (b"", "Expecting value"),
        (b"\0\0\0\0", "Expecting value"),
    ],
)
def test_json_that_is_none(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(data)
    assert len(str(caught.value)) < 200
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json")


def test_json_as_it_should_be() -> None:
    text = '\ufeff{"a": [1, -2.5e3, null, true, "\\ud800", {"b": 18446744073709551615}]}'
    assert parse_json(text.encode()) == {"a": [1, -2500.0, None, True, "\ud800", {"b": 2**64 - 1}]}


def test_a_number_that_is_none_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not os.listdir(tmp_path)


def test_a_cache_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("FASTLIFT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().is_absolute()
    with pytest.raises(UserError, match="home"):
        files.expand_user(Path("~no-such-user-here/x"))
