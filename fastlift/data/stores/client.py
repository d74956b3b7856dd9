"""Requests to stores through fsspec: many at once from any thread, repeated where that may help, errors in one sentence.

fsspec's own file objects are not used: each keeps a buffer for one sequence of reads, while a loader asks for a few KiB at
places all over a set, from many threads. Whole files and ranges are asked for as bytes.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from fastlift.errors import UserError
from fastlift.system.printing import masked

Result = TypeVar("Result")

WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0)  # before another attempt; what a store that restarts takes
CONNECT_S, READ_S = 10.0, 20.0  # time limits of a connection, and of a pause between two packets
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "az": "adlfs"}
_PACKAGES |= {"abfs": "adlfs", "http": "'fastlift[remote]'", "https": "'fastlift[remote]'"}
# What stores call the state of a file: the first ones tell of its content, the last ones when it was written.
_STATES = ("ETag", "etag", "md5Hash", "md5", "Content-MD5", "Digest", "generation", "blob_id", "sha256", "VersionId")
_TIMES = ("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created")
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP's, of a server that may do it later
_NO_BUCKET = "bucket does not exist"  # S3's words, and those of Google's store
# Bases of errors of aiohttp, botocore and requests, by name: none of them need be installed.
_BROKEN = {"ClientConnectionError", "ClientPayloadError", "HTTPClientError", "ConnectionError", "ConnectError"}
_BROKEN |= {"TransportError", "IncompleteReadError"}


class StoreError(UserError):
    """A store does not give what it should: no fault of an image, so nothing may be shown in its place."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=1)


class ShortRead(Exception):
    """Fewer bytes came than the file has."""


@dataclass(frozen=True)
class Info:
    """What a store says of a file: while it says the same, the content is the same."""

    size: int
    version: int  # 64 bits of a digest of size, checksum or tag, and times; never 0


def info(url: str) -> Info:
    """Size and version of a file; raises FileNotFoundError, also for a folder, and StoreError."""
    found = attempt(url, lambda: _system(url).info(url))
    if found.get("type") == "directory":
        raise FileNotFoundError(url)
    if found.get("size") is None:
        raise StoreError(f"{masked(url)}: the server does not say how large the file is")
    return info_of(found)


def info_of(found: dict[str, Any]) -> Info:
    """Of fsspec's description of a file."""
    said = [f"{name}={found[name]}" for name in _STATES if found.get(name)]
    said = said or [f"{name}={found[name]}" for name in _TIMES if found.get(name)]
    digest = hashlib.blake2b(f"{found['size']} {said}".encode(), digest_size=8).digest()
    return Info(int(found["size"]), int.from_bytes(digest, "little") or 1)


def read(url: str, size: int | None = None) -> bytes:
    """A whole file, of ``size`` bytes where that is known; raises FileNotFoundError and StoreError."""

    def request() -> bytes:
        data: bytes = _system(url).cat_file(url)
        if size is not None and len(data) != size:
            raise ShortRead(f"{len(data):,} bytes instead of {size:,}")
        return data

    return attempt(url, request) if size != 0 else b""


def read_range(url: str, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop`` of a file that has them; raises FileNotFoundError and StoreError."""
    if stop <= start:
        return b""

    def request() -> bytes:
        data: bytes = _system(url).cat_file(url, start=start, end=stop)
        if len(data) > stop - start:
            raise StoreError(f"{masked(url)}: the server gives the whole file when it is asked for a part of it")
        if len(data) < stop - start:
            raise ShortRead(f"{len(data):,} bytes instead of {stop - start:,}")
        return data

    return attempt(url, request)


def walk(url: str) -> dict[str, Info]:
    """All files below a folder, by their URLs without the protocol; empty where there is none. Raises StoreError."""
    try:
        found = attempt(url, lambda: _system(url).find(url, detail=True))
    except FileNotFoundError:
        return {}
    return {name: info_of(one) for name, one in found.items() if one.get("type") == "file"}


def stripped(url: str) -> str:
    """A URL as the store's own listing names it."""
    name: str = _system(url)._strip_protocol(url)
    return name


def attempt(url: str, request: Callable[[], Result]) -> Result:
    """The result of a request, repeated after a while where the network or the server failed.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: everything else, in one sentence, without secrets.
    """
    for wait in _waits():
        try:
            return request()
        except StoreError:
            raise
        except Exception as error:  # each store has its own
            cause = _cause(error)
            if _is_missing(cause):
                raise FileNotFoundError(masked(url)) from None
            if wait is None or not _may_pass(cause):
                raise StoreError(sentence(url, cause)) from error
        time.sleep(wait)
    raise AssertionError("the last attempt raises or returns")


def _waits() -> Iterator[float | None]:
    """Seconds to wait after each attempt, spread so that many threads do not come again at once; None after the last."""
    yield from (wait * random.uniform(0.75, 1.25) for wait in WAITS_S)
    yield None


def _cause(error: BaseException) -> BaseException:
    """fsspec's HTTP takes every error of a look at a file for a missing one: the first error tells which it is."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and not isinstance(cause, FileNotFoundError):
        return error if _status(cause) in (404, 410) or type(cause).__module__.startswith("botocore") else cause
    return error


def _status(error: BaseException) -> int | None:
    """HTTP's status, where an error has one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "status", None) or getattr(response, "status_code", None) or getattr(error, "code", None)
    return int(found) if str(found).isdigit() else None


def _is_missing(error: BaseException) -> bool:
    """Whether there is no such file; a bucket that is not there is no matter of one file."""
    if _NO_BUCKET in str(error):
        return False
    return isinstance(error, (FileNotFoundError, IsADirectoryError)) or _status(error) in (404, 410)


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, (TimeoutError, ConnectionError, ShortRead)) or "TimeoutError" in _names(error):
        return True
    if (status := _status(error)) is not None:
        return status in _PASSING
    return bool(_names(error) & _BROKEN) or (
        isinstance(error, OSError) and bool(_names(error.__cause__ or error) & _BROKEN)
    )


def sentence(url: str, error: BaseException) -> str:
    """What went wrong, in words that help; the error's own where none are known."""
    where, status, names = masked(url), _status(error) or _status(error.__cause__ or error), _names(error)
    text = masked(" ".join(str(error).split())) or type(error).__name__
    if "NoCredentialsError" in names or "credentials" in text.lower():
        return f"{where}: no credentials for this store ({text})"
    if _NO_BUCKET in text:
        return f"{where}: the bucket does not exist"
    if isinstance(error, PermissionError) or status in (401, 403):
        return f"{where}: access denied ({text}): check the credentials, and that they may read this place"
    if isinstance(error, TimeoutError) or "TimeoutError" in names:
        return f"{where}: no answer in time, after {len(WAITS_S) + 1} attempts"
    if isinstance(error, ShortRead):
        return f"{where}: the file ends early ({text}), after {len(WAITS_S) + 1} attempts"
    if isinstance(error, ConnectionError) or names & _BROKEN or "EndpointConnectionError" in names:
        return f"{where}: no connection ({text}), after {len(WAITS_S) + 1} attempts"
    if status is not None:
        return f"{where}: the server answers with status {status} ({text})"
    return f"{where}: {text}"


def protocol(url: str) -> str:
    """``s3`` of ``s3://bucket``."""
    return url.partition("://")[0].lower()


def _system(url: str) -> Any:
    return _systems(protocol(url), os.getpid())  # their threads do not come along into a forked process


@functools.lru_cache(maxsize=64)
def _systems(scheme: str, process: int) -> Any:
    """fsspec's file system of a scheme; raises StoreError where a package is missing, or nobody knows the scheme."""
    try:
        import fsspec
        from fsspec.config import conf
    except ImportError as error:
        raise StoreError(f"{scheme}:// needs fsspec: pip install 'fastlift[remote]' ({error})") from error
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    try:
        kind = fsspec.get_filesystem_class(scheme)
        if scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            limits = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
            options |= {
                "encoded": True,
                "client_kwargs": {"timeout": limits} | conf.get(scheme, {}).get("client_kwargs", {}),
            }
    except ImportError as error:
        package = _PACKAGES.get(scheme, f"its package of fsspec ({error})")
        raise StoreError(f"{scheme}:// needs {package}: pip install {package}") from error
    except ValueError as error:
        raise StoreError(f"{scheme}://: fsspec knows no store of this name") from error
    if needed := _needed(kind):
        raise StoreError(
            f"{scheme}:// cannot be read here, as fsspec asks for its {needed[0]} apart from the URL: mount it, or copy what is there"
        )
    return kind() if scheme == "memory" else kind(**options)


def _needed(kind: Any) -> list[str]:
    """What a file system cannot be made without."""
    given = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return [one.name for one in given if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
