"""Names that others gave, made printable: what a terminal or a page would carry out, or hide, is shown as its escape."""

from __future__ import annotations

import json
import re
import unicodedata

# Controls (escape sequences, line ends), formats (other directions of writing, no width), halves of characters or bytes
# that are no text, and Unicode's own line ends.
_NOT_SHOWN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def masked(text: str) -> str:
    """A text for people: without passwords and signatures in the URLs that it holds."""
    return re.sub(r"\?[^\s'\")<>]+", "?***", re.sub(r"://[^/@\s]+@", "://***@", text)) if "://" in text else text


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
    shown = (json.dumps(one)[1:-1] if unicodedata.category(one) in _NOT_SHOWN else one for one in text)
    return "".join(shown)
