"""Serving a run at an address until a signal comes."""

from __future__ import annotations

import ipaddress
import math
import os
import socket
from collections.abc import Callable

from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.serving.batcher import Batcher, warm_up
from fastlift.serving.settings import ServingSettings

_LOCAL = ["localhost", "127.0.0.1", "::1", "[::1]"]


def check_installed() -> None:
    """Raise UserError where the packages of the extra are missing."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UserError("fastlift serve needs FastAPI and uvicorn: pip install 'fastlift[serve]'") from None


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; ``port`` 0 takes one that is free. Raises UserError where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except socket.gaierror as error:
        raise UserError(f"host {host}: {error.strerror}") from None
    except OSError as error:
        cure = "; --port 0 takes a free one" if port else ""
        told = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"{host} port {port} cannot be listened at ({told}){cure}", exit_code=1) from None


def address(listening: socket.socket) -> str:
    """The URL of a server."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    name: str,
    model: LiftModel,
    crops: EnsemblingSettings,
    settings: ServingSettings,
    listening: socket.socket,
    *,
    batch_size: int,
    say: Callable[[str], object],
) -> int:
    """Answer requests until SIGINT or SIGTERM; those that are under way are answered first. Gives how many images there were.

    Args:
        name: what the model is called.
        model: on its device.
        crops: of each image.
        settings: the limits.
        listening: a socket of ``bind``.
        batch_size: crops that go through the model at a time.
        say: told the address once the model is ready.

    Raises:
        Signalled: the signal that ended it, where fastlift's commands handle signals.
    """
    import uvicorn

    from fastlift.serving.app import make_app

    warm_up(model, crops)
    with Batcher(
        model, crops, batch_size=batch_size, most_pixels=settings.most_pixels, waiting=settings.waiting
    ) as batcher:
        app = make_app(name, model, batcher, settings, _hosts(listening))
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=math.ceil(settings.seconds),
            limit_concurrency=settings.waiting + 1000,  # connections, most of which may be idle
        )
        server = uvicorn.Server(config)
        say(f"{name} at {address(listening)} (Ctrl-C ends it)")
        server.run(sockets=[listening])
        return batcher.predicted


def _hosts(listening: socket.socket) -> list[str]:
    """The names that a server is called by: those of this machine where nobody else can reach it, else any."""
    return _LOCAL if ipaddress.ip_address(listening.getsockname()[0]).is_loopback else ["*"]
