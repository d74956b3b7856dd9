"""``fastlift data`` on sets in a store."""

import json
from pathlib import Path
from typing import Any

import pytest
from web_server import WebServer

from fastlift import cli


@pytest.fixture
def flags(image_files: Any, web: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Those of a list whose files all lie on a web server."""
    image_files.fill().load()
    monkeypatch.setenv("FASTLIFT_CACHE", str(tmp_path / "cache"))
    lists = ["--train-list", f"{web.url}/train.txt", "--test-list", f"{web.url}/train.txt"]
    return ["--data-root", f"{web.url}/images", *lists, "--class-names", f"{web.url}/names.txt"]


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = cli.main(["data", *arguments, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {**found, "code": code}


def test_check_stats_and_prepare(
    flags: list[str], image_files: Any, web: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(["check", "--dataset", "list", *flags, "--decode"], capsys)
    assert (found["code"], found["ok"], found["images"]["train"], found["looked_at"]) == (0, True, 15, "pictures")
    found = told(["stats", "--dataset", "list", *flags, "--data-cache-gb", "0"], capsys)
    assert found["fingerprint"] == image_files.load().train.fingerprint
    assert told(["prepare", "list", *flags], capsys)["ready"]
    (image_files.root / "c1/3.jpg").write_bytes(b"x")
    found = told(["check", "--dataset", "list", *flags], capsys)
    assert found["code"] == 1
    assert found["problems"] == [f"{web.url}/images/c1/3.jpg: is text, not an image"]


def test_pack(flags: list[str], web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The images of a store into a pack on this machine, which is the same set."""
    found = told(["pack", str(tmp_path / "pack"), "--dataset", "list", *flags], capsys)
    assert (found["code"], found["images"]["train"]) == (0, 15)
    one = told(["stats", "--dataset", "list", "--data-root", f"{web.url}/pack"], capsys)
    assert one["fingerprint"] == told(["stats", "--dataset", "list", *flags], capsys)["fingerprint"]


def test_an_error_is_one_sentence(flags: list[str], web: WebServer, capsys: pytest.CaptureFixture[str]) -> None:
    web.fault = lambda asked: 403
    assert cli.main(["data", "stats", "--dataset", "list", *flags]) == 1
    said = capsys.readouterr().err.strip()
    assert "access denied" in said
    assert len(said.splitlines()) == 1
