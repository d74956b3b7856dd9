"""Files that others publish, downloaded once: one mirror after another, verified, and given up within seconds when offline.

``client`` repeats requests for half a minute, which is right for a store that a run reads from. A file of a few MB that can be had
elsewhere, or copied by hand, is not worth that: each host is asked once, and one that cannot be reached is not asked again.
"""

from __future__ import annotations

import hashlib
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet  # another class than the builtin one before Python 3.11
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from fastlift.data.stores.client import StoreError
from fastlift.system.files import write_atomically
from fastlift.system.printing import masked

Progress = Callable[[str, int, int], None]  # what, bytes done, bytes in all (always more than are done)

# For a host's address, connection and first line: of two hosts, a machine without a network knows in 10 s.
CONNECT_S = 5.0
READ_S = 20.0  # for a pause between two packets
_PIECE = 2**18
_LARGEST = 2**30
_HTML = (b"<!doctype html", b"<html", b"<head", b"<!--")


@dataclass(frozen=True)
class Mirror:
    r"""A place that publishes a file, and the digest by which its content is known.

    ``digest`` is ``git:`` and the hash of a git blob (sha1 of ``blob SIZE\0`` and the bytes), or ``md5:`` and that hash.
    ``member`` is the file in a ``.tar.gz`` of this content.
    """

    url: str
    digest: str
    member: str = ""

    @property
    def host(self) -> str:
        """Such as ``raw.githubusercontent.com``."""
        return urlsplit(self.url).netloc


def download(mirrors: tuple[Mirror, ...], file: Path, progress: Progress | None = None) -> None:
    """Write ``file`` from the first mirror that gives it, whole and verified.

    Raises:
        StoreError: no mirror does; one sentence with what each host said.
        OSError: the file cannot be written.
    """
    failed: dict[str, str] = {}
    unreachable: set[str] = set()
    for mirror in mirrors:
        if mirror.host in unreachable:
            continue
        try:
            write_atomically(file, partial(_fetch, mirror, file.name, progress))
            return
        except _NotReached as error:
            unreachable.add(mirror.host)
            failed[mirror.host] = str(error)
        except _NotGiven as error:
            failed[mirror.url] = str(error)
    told = "; ".join(f"{masked(where)} {why}" for where, why in failed.items())
    raise StoreError(f"{file.name} could not be downloaded ({told})")


def is_digest_of(digest: str, file: Path) -> bool:
    """Whether a file has the content of a mirror's digest."""
    kind, _, wanted = digest.partition(":")
    found = hashlib.sha1(usedforsecurity=False) if kind == "git" else hashlib.md5(usedforsecurity=False)
    if kind == "git":
        found.update(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            found.update(piece)
    return found.hexdigest() == wanted


def is_html(begin: bytes) -> bool:
    """Whether a file that begins so is a web page: what servers answer instead of a file that one may not have, or not so."""
    return begin.removeprefix(b"\xef\xbb\xbf").lstrip()[:14].lower().startswith(_HTML)


class _NotReached(Exception):
    """No connection to the host."""


class _NotGiven(Exception):
    """It answers, and not with the file."""


def _fetch(mirror: Mirror, name: str, progress: Progress | None, part: Path) -> None:
    packed = part.with_name("packed") if mirror.member else part
    with _opened(mirror.url) as answer, packed.open("wb") as out:
        _copy(answer, out, f"downloading {name} from {mirror.host}, bytes", progress)
    with packed.open("rb") as opened:
        if is_html(opened.read(64)):
            raise _NotGiven("answers with an HTML page instead of the file")
    if not is_digest_of(mirror.digest, packed):
        raise _NotGiven(f"gives a file of {packed.stat().st_size:,} bytes with other content than was published")
    if mirror.member:
        with tarfile.open(packed) as tar, part.open("wb") as out:
            inside = tar.extractfile(mirror.member)
            assert inside is not None  # the digest was that of an archive that holds it
            _copy(inside, out, f"unpacking {name}, bytes", progress)


def _copy(source: Any, out: Any, what: str, progress: Progress | None) -> None:
    """Raises _NotGiven where the source breaks off, or is larger than any such file."""
    total, done = int(getattr(source, "length", None) or 0), 0
    while piece := _piece(source, done):
        out.write(piece)
        done += len(piece)
        if progress:
            progress(what, done, max(total, done + 1))
        if done > _LARGEST:
            raise _NotGiven(f"gives more than {_LARGEST:,} bytes")
    if done < total:
        raise _NotGiven(f"breaks off after {done:,} of {total:,} bytes")


def _piece(source: Any, done: int) -> bytes:
    try:
        piece: bytes = source.read(_PIECE)
    except (OSError, HTTPException) as error:
        raise _NotGiven(f"breaks off after {done:,} bytes ({_words(error)})") from error
    return piece


def _opened(url: str) -> Any:
    """The answer of a server, within CONNECT_S.

    In a thread: neither the look-up of a name nor a host of many addresses, each with a time limit of its own, heeds a limit
    on the whole. A thread that comes too late closes what it has opened.
    """
    coming: Future[Any] = Future()

    def ask() -> None:
        try:
            answer = urlopen(Request(url, headers={"User-Agent": "fastlift"}), timeout=READ_S)
        except BaseException as error:
            if coming.set_running_or_notify_cancel():
                coming.set_exception(error)
            return
        if coming.set_running_or_notify_cancel():
            coming.set_result(answer)
        else:
            answer.close()

    threading.Thread(target=ask, daemon=True, name="download").start()
    try:
        try:
            return coming.result(CONNECT_S)
        except NotYet:
            if coming.cancel():
                raise _NotReached(f"gives no answer within {CONNECT_S:g} s") from None
            return coming.result()  # it came just now
    except HTTPError as error:
        error.close()
        raise _NotGiven(f"answers with status {error.code}") from error
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        raise _NotReached(f"cannot be reached ({_words(error)})") from error


def _words(error: BaseException) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
        return cause.strerror
    return " ".join(str(cause).split()) or type(cause).__name__
