"""Names: those that users type, checked once, with the near ones in the message; those that others gave, made printable."""

import json
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

from fastlift.errors import UserError


def one_of(what: str, name: str, known: Iterable[str]) -> str:
    """``name`` if it is ``known``.

    Raises:
        UserError: an unknown name; the message lists the near ones, or all where none is near and they are few.
    """
    names = list(known)
    if name in names:
        return name
    folded = {other.lower(): other for other in names}
    near = [folded[match] for match in get_close_matches(name.lower(), folded, n=4, cutoff=0.5)]
    if near:
        raise UserError(f"unknown {what} {name!r}; did you mean {' or '.join(near)}?")
    listed = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    raise UserError(f"unknown {what} {name!r}; known: {listed}")


# Controls (escape sequences, line ends), formats (other directions of writing, no width), halves of characters or bytes
# that are no text, and Unicode's own line ends: what a terminal or a page would carry out, or hide, instead of showing it.
_NOT_SHOWN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def printable(text: str, *, lines: bool = False) -> str:
    r"""``text`` as people can read it, whoever named it: what would not be shown stands there as its escape, ``\u001b``.

    The escapes are JSON's, so JSON that went through here still holds what it held. Everything that leaves fastlift for a
    reader's eyes passes here where it leaves: terminals, pages, lists for people. What programs read keeps its bytes.

    Args:
        lines: leave line ends, for messages of several lines.
    """
    if lines:
        return "\n".join(map(printable, text.split("\n")))
    if text.isprintable():
        return text
    return "".join(_escape(letter) if unicodedata.category(letter) in _NOT_SHOWN else letter for letter in text)


def _escape(letter: str) -> str:
    return json.dumps(letter)[1:-1]
