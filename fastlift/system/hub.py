"""Files of the Hugging Face hub: from its cache without a question to the network, else from the network, if that is there."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar
from urllib.parse import urlsplit

from fastlift.errors import UserError

Loaded = TypeVar("Loaded")
_ANSWER_S = 5.0  # for a first sign of the hub
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def from_hub(
    what: str, load: Callable[[], Loaded], instead: str, *, newest: bool = False, cache: str | None = None
) -> Loaded:
    """What ``load`` gives: tried with the cache alone, then with the network where something is missing.

    A library of the hub asks for a newer version of what it has, over and over where there is no network, for minutes.

    Args:
        what: for the message, such as "the weights of ViT-B-16".
        load: calls a library that gets files from the hub.
        instead: what to do without them, for the message.
        newest: of what may change on the hub: ask it for a newer version, where it answers.
        cache: the folder where the library keeps them, for the message; default the hub's own.

    Raises:
        UserError: something is missing and the hub cannot be reached, which is known within seconds; exit code 1.
    """
    from huggingface_hub import constants

    is_forbidden = constants.is_offline_mode()
    if newest and not is_forbidden and _answers(constants.ENDPOINT):
        return load()
    try:
        with _cache_alone():
            return load()
    except Exception as error:
        if not _is_missing(error):
            raise
    if not is_forbidden and not newest and _answers(constants.ENDPOINT):
        return load()
    host = urlsplit(constants.ENDPOINT).hostname
    reason = "HF_HUB_OFFLINE forbids to download them" if is_forbidden else f"{host} cannot be reached from here"
    raise UserError(
        f"{what} are not in the cache {cache or constants.HF_HUB_CACHE}, and {reason}. On a machine with network run this once "
        f"and copy the cache, or {instead}",
        exit_code=1,
    )


@contextmanager
def _cache_alone() -> Iterator[None]:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_missing(error: BaseException | None) -> bool:
    """Whether it comes of a file that the cache does not hold; libraries raise errors of their own over the hub's."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        # ConnectionError: what ``datasets`` makes of these, without telling of which.
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _answers(endpoint: str) -> bool:
    """Whether a connection is accepted; behind a proxy nothing can be told, so that it is taken for granted."""
    place = urlsplit(endpoint)
    if any(map(os.environ.get, _PROXIES)) or place.hostname is None:
        return True
    found: list[bool] = []

    def ask() -> None:
        with suppress(OSError), socket.create_connection((place.hostname, port), _ANSWER_S):
            found.append(True)

    port = place.port or (80 if place.scheme == "http" else 443)
    # Where no server of names answers, looking one up has no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWER_S)
    return bool(found)
