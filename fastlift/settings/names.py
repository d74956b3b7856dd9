"""Names that users type, checked once, with the near ones in the message."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from fastlift.errors import UserError

_FEW = 8  # names that are all listed, beside the near ones


def one_of(what: str, name: str, known: Iterable[str]) -> str:
    """``name`` if it is ``known``.

    Raises:
        UserError: an unknown name; the message lists the near ones, and all where none is near or they are few.
    """
    names = list(known)
    if name in names:
        return name
    folded = {other.lower(): other for other in names}
    near = [folded[match] for match in get_close_matches(name.lower(), folded, n=4, cutoff=0.5)]
    if near:
        others = f" (known: {', '.join(names)})" if len(near) < len(names) <= _FEW else ""
        raise UserError(f"unknown {what} {name!r}; did you mean {' or '.join(near)}?{others}")
    listed = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    raise UserError(f"unknown {what} {name!r}; known: {listed}")
