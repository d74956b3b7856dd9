"""Files of the hub: from the cache without a question, from the network, and a sentence where neither has them."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, hf_hub_download

from fastlift.errors import UserError
from fastlift.models.backbones import load
from fastlift.system import hub
from fastlift.system.hub import from_hub

COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "hub"))
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that refuses connections."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        yield


class Hub(http.server.BaseHTTPRequestHandler):
    """One file of one repository."""

    content, asked = b"some weights", 0

    def do_HEAD(self) -> None:
        type(self).asked += 1
        self.send_response(200 if "file.bin" in self.path else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"abc"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if "file.bin" in self.path:
            self.wfile.write(self.content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Fresh(Hub):
        asked = 0

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh) as listening:
        endpoint = f"http://127.0.0.1:{listening.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield Fresh
        listening.shutdown()


def fetch(*, newest: bool = False) -> str:
    return from_hub("the weights of X", lambda: hf_hub_download("some/model", "file.bin"), "use another", newest=newest)


def test_a_file_is_downloaded_once_and_the_network_is_not_asked_again(cache: Path, server: type[Hub]) -> None:
    assert Path(fetch()).read_bytes() == server.content
    asked = server.asked
    assert asked > 0
    assert Path(fetch()).read_bytes() == server.content
    assert server.asked == asked
    assert constants.HF_HUB_OFFLINE is False


def test_the_newest_is_asked_for_where_the_hub_answers(
    cache: Path, server: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch()
    asked = server.asked
    assert Path(fetch(newest=True)).read_bytes() == server.content
    assert server.asked > asked
    monkeypatch.setattr(hub, "_answers", lambda endpoint: False)
    asked = server.asked
    assert Path(fetch(newest=True)).read_bytes() == server.content
    assert server.asked == asked


def test_without_a_network_it_is_one_sentence_at_once(cache: Path, unreachable: None) -> None:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        fetch()
    assert str(caught.value) == (
        f"the weights of X are not in the cache {cache}, and 127.0.0.1 cannot be reached from here. On a machine with network "
        "run this once and copy the cache, or use another"
    )
    assert caught.value.exit_code == 1
    assert time.monotonic() - start < 10


def test_a_server_of_names_that_is_silent(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(hub, "_ANSWER_S", 0.1)
    asked, over = threading.Event(), threading.Event()

    def silent(*_: object) -> None:
        asked.set()
        over.wait(60)
        raise OSError("no answer")

    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(UserError, match=r"hub\.invalid cannot be reached"):
        fetch()
    assert asked.is_set()
    over.set()


def test_a_user_who_forbids_the_network_is_told_so(
    cache: Path, server: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"are not in the cache .*, and HF_HUB_OFFLINE forbids"):
        fetch()
    assert server.asked == 0


def test_other_errors_are_nobodys_network(cache: Path, unreachable: None) -> None:
    calls = []

    def broken() -> None:
        calls.append(constants.HF_HUB_OFFLINE)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        from_hub("x", broken, "y")
    assert calls == [True]
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize(("name", "tag"), [("ViT-B-16", "openai"), ("timm:vit_tiny_patch16_224", None)])
def test_models_whose_weights_are_nowhere(name: str, tag: str | None, cache: Path, unreachable: None) -> None:
    start = time.monotonic()
    with pytest.raises(
        UserError, match=f"the weights {name}.* are not in the cache .* name a weights file with --pretrained"
    ):
        load(name, tag)
    assert time.monotonic() - start < 30  # five retries of each file would be minutes
