"""Published files: from the first mirror that gives them whole, and one sentence within seconds where none does."""

import hashlib
import io
import socket
import tarfile
import time
from pathlib import Path

import pytest
from web_server import WebServer

from fastlift.data.stores import download as module
from fastlift.data.stores.client import StoreError
from fastlift.data.stores.download import Mirror, download, is_html

CONTENT = b"train/n01440764/n01440764_190.JPEG 0\n" * 20_000


def blob(content: bytes) -> str:
    """As ``git hash-object`` has it."""
    return "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def mirrors(web: WebServer, *names: str, digest: str = "") -> tuple[Mirror, ...]:
    return tuple(Mirror(f"{web.url}/{name}", digest or blob(CONTENT)) for name in names)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "lists" / "list.txt"


def test_git_says_the_same() -> None:
    """``printf 'hello\\n' | git hash-object --stdin``."""
    assert blob(b"hello\n") == "git:ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_file_is_downloaded_and_told_of(web: WebServer, kept: Path) -> None:
    (web.root / "list.txt").write_bytes(CONTENT)
    told: list[tuple[str, int, int]] = []
    download(mirrors(web, "list.txt"), kept, lambda *said: told.append(said))
    assert kept.read_bytes() == CONTENT
    assert told[0][0].startswith("downloading list.txt from 127.0.0.1")
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == len(CONTENT) <= told[-1][2]
    assert [file.name for file in kept.parent.iterdir()] == ["list.txt"]


@pytest.mark.parametrize("fault", [404, 500, "hang up", "cut", "other content", "html"])
def test_the_next_mirror_is_asked(web: WebServer, kept: Path, fault: int | str) -> None:
    (web.root / "good.txt").write_bytes(CONTENT)
    bad = {"other content": CONTENT[:-1], "html": b"<!DOCTYPE html><title>Sign in</title>"}
    (web.root / "bad.txt").write_bytes(bad.get(str(fault), CONTENT))
    web.fault = lambda asked: fault if "bad" in asked.path and fault not in bad else None
    second = Mirror(web.url.replace("127.0.0.1", "localhost") + "/good.txt", blob(CONTENT))
    download((*mirrors(web, "bad.txt"), second), kept)
    assert kept.read_bytes() == CONTENT
    assert web.count("GET", "bad") == 1


def test_what_each_mirror_said_is_one_sentence(web: WebServer, kept: Path) -> None:
    (web.root / "page.txt").write_bytes(b"\xef\xbb\xbf \n<HTML>Sign in")
    (web.root / "other.txt").write_bytes(b"none")
    (web.root / "cut.txt").write_bytes(CONTENT)
    web.fault = lambda asked: "cut" if "cut" in asked.path else None
    with pytest.raises(StoreError) as caught:
        download(mirrors(web, "page.txt", "other.txt", "gone.txt", "cut.txt"), kept)
    message = str(caught.value)
    assert message.startswith("list.txt could not be downloaded (")
    assert "page.txt answers with an HTML page instead of the file" in message
    assert "other.txt gives a file of 4 bytes with other content than was published" in message
    assert "gone.txt answers with status 404" in message
    assert f"cut.txt breaks off after {len(CONTENT) // 2:,} of {len(CONTENT):,} bytes" in message
    assert "\n" not in message
    assert not list(kept.parent.iterdir())


def test_a_host_that_cannot_be_reached_is_asked_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(request: object, timeout: float) -> None:
        asked.append(request.full_url)  # type: ignore[attr-defined]
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(module, "urlopen", refuse)
    three = tuple(Mirror(f"https://{host}.example/{k}", "md5:0") for k, host in enumerate(("one", "one", "two")))
    with pytest.raises(StoreError, match=r"one.example cannot be reached \(Network is unreachable\); two.example"):
        download(three, kept)
    assert asked == ["https://one.example/0", "https://two.example/2"]


def test_a_host_that_does_not_answer_is_given_up(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose connections nobody takes up: what a firewall that drops packets looks like."""
    monkeypatch.setattr(module, "CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"gives no answer within 0.2 s"):
            download((Mirror(f"{address}/a", "md5:0"), Mirror(f"{address}/b", "md5:0")), kept)
        assert time.monotonic() - began < module.READ_S / 2


def test_a_file_in_an_archive(web: WebServer, kept: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo("train2018.json")
        entry.size = len(CONTENT)
        tar.addfile(entry, io.BytesIO(CONTENT))
    (web.root / "a.tar.gz").write_bytes(packed.getvalue())
    digest = "md5:" + hashlib.md5(packed.getvalue()).hexdigest()
    download((Mirror(f"{web.url}/a.tar.gz", digest, "train2018.json"),), kept)
    assert kept.read_bytes() == CONTENT
    assert [file.name for file in kept.parent.iterdir()] == ["list.txt"]


@pytest.mark.parametrize(
    ("begin", "page"),
    [
        (b"<!DOCTYPE html>", True),
        (b"\n <html lang='en'>", True),
        (b"train/a.jpg 0", False),
        (b"", False),
        (b"<a", False),
    ],
)
def test_what_is_a_page(begin: bytes, page: bool) -> None:
    assert is_html(begin) == page
