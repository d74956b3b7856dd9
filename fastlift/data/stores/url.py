"""A file or folder of a store, with the part of pathlib's interface that data sets use; and local copies of small files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote

from fastlift.data.stores import client
from fastlift.data.stores.cached import Session
from fastlift.data.stores.download import is_html
from fastlift.errors import UserError
from fastlift.system.files import expand_user, write_atomically
from fastlift.system.printing import masked

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]")
_GITHUB_PAGE = re.compile(r"https?://github\.com/([^/]+/[^/]+)/blob/(.+)")


@dataclass(frozen=True)
class Url:
    """A place in a store: ``s3://bucket/imagenet``, ``https://host/folder?signature``. ``str`` shows it without secrets."""

    text: str
    session: Session = field(default_factory=Session, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self.text.rstrip("/"))

    def __str__(self) -> str:
        return masked(self.text)

    def __truediv__(self, name: str) -> Url:
        return Url(self.below(name), self.session)

    def below(self, name: str) -> str:
        """The text of a URL below this one: what ``/`` gives."""
        path, mark, query = self.text.partition("?") if self.is_web else (self.text, "", "")
        if self.is_web:
            name = quote(name.encode("utf-8", "surrogateescape"))
        return f"{path}/{name}{mark}{query}"

    def apart(self) -> tuple[str, str]:
        """The store itself, and the path of this place in it: ``Url(store) / path`` is this place again."""
        path, mark, query = self.text.partition("?") if self.is_web else (self.text, "", "")
        scheme, _, rest = path.partition("://")
        host, _, inside = rest.partition("/")
        inside = unquote(inside, errors="surrogateescape") if self.is_web else inside
        return f"{scheme}://{host}{mark}{query}", inside

    @cached_property
    def is_web(self) -> bool:
        """A plain web server's: it has no listing, its paths are quoted, and what follows a ``?`` is no part of them."""
        return client.protocol(self.text) in ("http", "https")

    @property
    def place(self) -> str:
        """The text without what follows a ``?`` on the web: signatures change, and the files are the same."""
        return self.text.partition("?")[0] if self.is_web else self.text

    @property
    def name(self) -> str:
        """The last part of the path."""
        last = self.place.rpartition("/")[2]
        return unquote(last) if self.is_web else last

    def is_file(self) -> bool:
        """Whether there is a file; raises StoreError."""
        try:
            client.info(self.text)
        except FileNotFoundError:
            return False
        return True

    def files(self) -> dict[str, client.Info]:
        """All files below this folder by their paths from here on, in order.

        Raises:
            UserError: a web server, which has no listing.
            StoreError: the store's own errors.
        """
        if self.is_web:
            raise UserError(
                f"{self}: web servers do not list their files: use list files, a pack, or WebDataset shards by a pattern "
                "such as train-{000000..000099}.tar"
            )
        if (known := self.session.listings.get(self.text)) is not None:
            return known
        for above, listed in self.session.listings.items():
            if self.text.startswith(above + "/"):
                inside = self.text[len(above) + 1 :] + "/"
                below = {name[len(inside) :]: found for name, found in listed.items() if name.startswith(inside)}
                self.session.listings[self.text] = below
                return below
        start = client.stripped(self.text).rstrip("/") + "/"
        walked = client.walk(self.text)
        listing = {name[len(start) :]: walked[name] for name in sorted(walked) if name.startswith(start)}
        for name, found in listing.items():
            self.session.know(self.below(name), found)
        self.session.listings[self.text] = listing
        return listing


def place_of(text: str | Path, session: Session | None = None) -> Path | Url:
    """What a user gave: a URL, or a path with ``~`` expanded."""
    return Url(str(text), session or Session()) if is_url(text) else expand_user(Path(text))


def is_url(text: object) -> bool:
    """Whether a text names a place in a store."""
    return isinstance(text, str) and _URL.match(text) is not None


def size_of(place: Path | Url) -> int | None:
    """Bytes of a file; None where there is none. Raises StoreError."""
    try:
        return (
            place.session.info(place.text).size
            if isinstance(place, Url)
            else place.stat().st_size
            if place.is_file()
            else None
        )
    except FileNotFoundError:
        return None


def local_copy(place: Path | Url, cache: Path) -> Path:
    """The file itself, or what a store gives of it now, below ``cache``: for files that are read whole, such as lists.

    Raises:
        UserError: there is no such file in the store, or a web page in its place.
        StoreError: the store's own errors.
    """
    if isinstance(place, Path):
        return place
    try:
        data = client.read(place.text)
    except FileNotFoundError:
        raise UserError(f"{place} does not exist") from None
    if is_html(data[:64]):
        raise UserError(f"{place} answers with an HTML page instead of the file{_way_to_file(place)}")
    copy = cache / "fetched" / hashlib.sha256(place.text.encode()).hexdigest()[:16] / place.name
    write_atomically(copy, lambda part: part.write_bytes(data))
    return copy


def _way_to_file(page: Url) -> str:
    """What to give in place of a page's address."""
    if found := _GITHUB_PAGE.fullmatch(page.place):
        return f": the file itself is at https://raw.githubusercontent.com/{found[1]}/{found[2]}"
    return ": give the address of the file itself (a login page, a share link and a preview are pages), or download it by hand"
