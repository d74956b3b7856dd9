"""A web server of a folder on this machine, with ranges, which can be told to be slow, to fail and to cut what it sends."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from typing_extensions import override


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    start: int | None
    stop: int | None


@dataclass
class WebServer:
    """What it serves and how; ``fault`` is asked at each request: an HTTP status, "cut", "hang up", "hang" or None."""

    root: Path
    url: str = ""
    delay_s: float = 0.0
    ranges: bool = True
    fault: Callable[[Asked], int | str | None] = lambda asked: None
    asked: list[Asked] = field(default_factory=list)

    def count(self, method: str, part: str = "") -> int:
        return sum(one.method == method and part in one.path for one in self.asked)

    def sent(self) -> int:
        """Bytes of bodies that were asked for by ranges."""
        return sum(one.stop - one.start for one in self.asked if one.start is not None and one.stop is not None)


@contextmanager
def serving(root: Path) -> Iterator[WebServer]:
    """The server, as long as the ``with`` statement lasts."""
    state = WebServer(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _answer(self, state, body=True)

        def do_HEAD(self) -> None:
            _answer(self, state, body=False)

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        @override
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hung up

    with Server(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, state: WebServer, body: bool) -> None:
    file = state.root / unquote(urlsplit(handler.path).path).lstrip("/")
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", "")) if state.ranges else None
    data = file.read_bytes() if file.is_file() else None
    start, stop = (int(wanted[1]), int(wanted[2] or 10**18) + 1) if wanted else (0, 10**18)
    stop = min(stop, len(data or b""))
    asked = Asked(handler.command, handler.path, start if wanted else None, stop if wanted else None)
    state.asked.append(asked)
    time.sleep(state.delay_s)
    fault = state.fault(asked)
    if fault == "hang":
        time.sleep(60)
    if fault == "hang up":
        handler.close_connection = True
        handler.connection.close()
        return
    status = fault if isinstance(fault, int) else 404 if data is None else 206 if wanted else 200
    if status == 206 and data is not None and start >= len(data):
        status = 416
    content = data[start:stop] if data is not None and status in (200, 206) else b"no"
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    if data is not None and status in (200, 206):
        seconds = file.stat().st_mtime
        handler.send_header("ETag", f'"{file.stat().st_mtime_ns}-{len(data)}"')
        handler.send_header("Last-Modified", formatdate(seconds, usegmt=True))
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
    handler.end_headers()
    if body:
        handler.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        if fault == "cut":
            handler.close_connection = True


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    """A web server of all that a test has written."""
    with serving(tmp_path) as server:
        yield server
