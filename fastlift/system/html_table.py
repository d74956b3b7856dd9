"""Small tables for notebooks: what ``_repr_html_`` of the classes that users hold returns."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from fastlift.system.printing import printable


def html_table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in HTML; every text is escaped, numbers stand to the right, None is a dash.

    Args:
        caption: shown above.
        headings: of the columns.
        rows: texts and numbers; a fraction is shown with one decimal.
    """
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    above = f'<caption style="text-align: left">{_text(caption)}</caption>'
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if value is None or isinstance(value, int | float):
        shown = "–" if value is None else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
        return f'<td style="text-align: right">{shown}</td>'
    return f"<td>{_text(str(value))}</td>"


def _text(text: str) -> str:
    return html.escape(printable(text))
