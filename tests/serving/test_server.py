"""``fastlift serve`` answers what the model says, refuses what is too much, and ends gracefully."""

from __future__ import annotations

import io
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from serving_process import Server, serving

import fastlift
from fastlift import cli

Streams = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=300) as opened:
        yield opened


def post(client: httpx.Client, data: Any, kind: str = "image/jpeg", **options: Any) -> httpx.Response:
    return client.post("/predict", content=data, params=options, headers={"Content-Type": kind})


def png(width: int, height: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB" if kind != "TIFF" else "1", (width, height)).save(file, kind)
    return file.getvalue()


def _damaged() -> bytes:
    """A PNG whose header and end are whole, and half of whose pixels are missing."""
    file = io.BytesIO()
    pixels = np.random.Generator(np.random.Philox(0)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    whole = file.getvalue()
    return whole[: len(whole) // 2] + whole[-12:]


DAMAGED = _damaged()


def test_the_answer_is_the_models(client: httpx.Client, run: Path, tiny_data: Path) -> None:
    model = fastlift.load_run(run)
    for file in sorted((tiny_data / "test").rglob("0.jpg")):
        wanted = model.predict(file, top=3, features=True)
        answer = post(client, file.read_bytes(), top=3, features=True)
        assert answer.status_code == 200
        found = answer.json()
        assert found["answer"] == wanted.answer
        assert [one["class"] for one in found["top"]] == list(wanted.names)
        assert [one["probability"] for one in found["top"]] == pytest.approx(wanted.probabilities, abs=2e-6)
        assert found["features"] == pytest.approx(wanted.features.tolist(), rel=1e-4, abs=1e-5)
        assert found["milliseconds"] > 0
    plain = post(client, file.read_bytes(), "application/octet-stream").json()
    assert len(plain["top"]) == 5
    assert plain["features"] is None
    assert post(client, file.read_bytes(), threshold=0.99).json()["answer"] is None


def test_it_tells_what_it_is(client: httpx.Client, run: Path) -> None:
    model = client.get("/model").json()
    assert model["classes"] == list(fastlift.load_run(run).class_names)
    assert (model["name"], model["max_megabytes"], model["max_megapixels"]) == ("run", 1, 4)
    assert client.get("/health").json() == {"status": "ok"}
    told = client.get("/openapi.json").json()
    assert told["openapi"].startswith("3.")
    assert set(told["paths"]) == {"/predict", "/model", "/health"}
    predict = told["paths"]["/predict"]["post"]
    assert "application/octet-stream" in predict["requestBody"]["content"]
    assert {"200", "408", "413", "415", "422", "503"} == set(predict["responses"])
    assert {one["name"] for one in predict["parameters"]} == {"top", "threshold", "features"}
    assert "class" in told["components"]["schemas"]["ClassProbability"]["properties"]


@pytest.mark.parametrize(
    ("data", "kind", "options", "status", "told"),
    [
        (b"hello", "image/jpeg", {}, 415, "is text, not an image"),
        (b"GIF89a" + b"\0" * 99, "image/gif", {}, 415, "is a GIF"),
        (b"", "image/jpeg", {}, 415, "is empty"),
        (png(9, 9), "text/plain", {}, 415, "send the file of an image as the body"),
        (png(9, 9), "multipart/form-data; boundary=x", {}, 415, "send the file of an image as the body"),
        (DAMAGED, "image/png", {}, 422, "is truncated"),
        (png(9, 9), "image/png", {"top": 7}, 422, "less than or equal to 6"),
        (png(9, 9), "image/png", {"top": 0}, 422, "greater than or equal to 1"),
        (png(9, 9), "image/png", {"threshold": 2}, 422, "less than or equal to 1"),
        (b"\xff\xd8\xff" + b"\0" * 1_000_000, "image/jpeg", {}, 413, "at most 1 megabytes"),
    ],
)
def test_what_is_refused(client: httpx.Client, data: bytes, kind: str, options: Any, status: int, told: str) -> None:
    answer = post(client, data, kind, **options)
    assert answer.status_code == status
    assert told in str(answer.json()["detail"])


def test_a_body_of_unknown_length_is_cut_off(client: httpx.Client) -> None:
    """Sent in parts, without a length: 413 before all of it has come."""

    def endless() -> Iterator[bytes]:
        yield b"\xff\xd8\xff"
        for _ in range(40):
            yield b"\0" * 100_000

    try:
        answer = post(client, endless())
    except httpx.TransportError:  # the server may hang up on who goes on sending
        return
    assert answer.status_code == 413


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_decompression_bombs_are_seen_before_they_are_decoded(client: httpx.Client, kind: str) -> None:
    side = 3000  # 9 million pixels; four are taken
    data = png(side, side, kind) if kind != "TIFF" else _tiff(side)
    assert len(data) < 1_000_000
    answer = post(client, data, f"image/{kind.lower()}")
    assert answer.status_code == 413
    assert "has 9.0 million pixels; at most 4 are taken" in answer.json()["detail"]


def _tiff(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "TIFF", compression="group4")
    return file.getvalue()


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/model", "/openapi.json", "/gone"])
def test_nothing_from_elsewhere_may_run(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "http://" not in answer.text.replace(str(client.base_url), "")
    assert "https://" not in answer.text
    assert "server" not in answer.headers
    for page in ("/docs", "/redoc"):  # which load scripts from elsewhere
        assert client.get(page).status_code == 404


def test_other_names_of_this_machine_are_refused(client: httpx.Client) -> None:
    """A page elsewhere whose name leads to 127.0.0.1 must not read answers."""
    assert client.get("/model", headers={"Host": "elsewhere.example"}).status_code == 400
    assert client.get("/model", headers={"Host": "localhost:1"}).status_code == 200


def test_concurrent_requests_get_each_its_own_answer(client: httpx.Client, run: Path, tiny_data: Path) -> None:
    files = sorted((tiny_data / "test").rglob("*.jpg"))
    wanted = fastlift.load_run(run).predict(files, top=6)
    asked = [(number % len(files), number % 6 + 1) for number in range(60)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda pair: post(client, files[pair[0]].read_bytes(), top=pair[1]), asked))
    for (number, top), answer in zip(asked, answers, strict=True):
        found = answer.json()["top"]
        assert len(found) == top
        assert [one["probability"] for one in found] == pytest.approx(wanted[number].probabilities[:top], abs=1e-4)


def test_who_hangs_up_is_no_error_of_the_server(run: Path) -> None:
    """As the page does when another image is chosen while one is being sent."""
    with serving(run) as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\nContent-Length: 9999\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=120) as gone:
            gone.sendall(head.encode() + b"some")
            assert httpx.get(f"{server.url}/health", timeout=120).status_code == 200  # the request is there by now
        assert httpx.get(f"{server.url}/health", timeout=120).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.communicate(timeout=120)[1] == "fastlift: SIGTERM: stopped\n"


def _takes_connections(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=120):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_gracefully(run: Path, tiny_data: Path, number: signal.Signals) -> None:
    """A request whose body is still on its way is answered; no new one is taken."""
    data = (tiny_data / "test" / "class0" / "0.jpg").read_bytes()
    with serving(run) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=120) as half:
            head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            half.sendall(head.encode() + data[:100])
            assert httpx.get(f"{server.url}/health", timeout=120).status_code == 200  # the half is there by now
            server.process.send_signal(number)
            while _takes_connections(host, int(port)):
                pass
            half.sendall(data[100:])
            answer = half.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        out, err = server.process.communicate(timeout=120)
    assert server.process.returncode == 128 + number
    assert out == ""
    assert err == f"fastlift: {number.name}: stopped\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-megabytes", "0"], "max_megabytes: expected megabytes above 0"),
        (["--port", "99999"], "port: expected"),
        (["--tte-crops", "3"], "tte_crops"),
        (["--host", "192.0.2.1"], "192.0.2.1 port 8000 cannot be listened at (Cannot assign requested address)"),
    ],
)
def test_mistakes(run: Path, flags: list[str], message: str, capsys: Streams) -> None:
    assert cli.main(["serve", str(run), *flags]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(
    run: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any, **more: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("fastlift.engine.model.load_run", load)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", str(run), "--port", port]) == 1
    told = capsys.readouterr().err
    assert f"127.0.0.1 port {port} cannot be listened at (Address already in use); --port 0 takes a free one" in told


def test_what_is_no_run(tmp_path: Path, capsys: Streams) -> None:
    assert cli.main(["serve", str(tmp_path), "--port", "0"]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_without_the_extra_it_is_one_sentence(run: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert cli.main(["serve", str(run)]) == 2
    assert capsys.readouterr().err == (
        "fastlift: fastlift serve needs FastAPI and uvicorn: pip install 'fastlift[serve]'\n"
    )
