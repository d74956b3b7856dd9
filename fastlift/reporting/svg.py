"""matplotlib figures as inline SVG that takes its colours from the page, so one drawing reads in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# matplotlib knows no CSS variables: themed parts are drawn in colours that occur nowhere else and exchanged in the SVG.
INK, MUTED, LINE = "#010203", "#010204", "#010205"
_THEMED = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)"}

SERIES = ("#2f7de1", "#d9730d", "#0f9d76", "#9a5ce6", "#e0457b", "#7a8a1f", "#008fa8", "#a8603c")
"""Colours of runs; each has a contrast of at least 3 to both backgrounds of the page."""

WIDTH_IN, HEIGHT_IN = 4.6, 3.0

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, small, in the page's font
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
    "path.simplify": True,
}


@contextmanager
def drawing(width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one plot in the page's style; no pyplot, so no global state and no display."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure, figure.add_subplot()


def inline_svg(figure: Figure, key: str, description: str, *, tight: bool = False) -> Markup:
    """The figure as an ``<svg>`` element for HTML.

    Args:
        figure: drawn inside `drawing`.
        key: prefix of every id in it, unique on the page.
        description: what the plot shows, for readers who do not see it.
        tight: cut away what is empty around the plot.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": key}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
            bbox_inches="tight" if tight else None,
            pad_inches=0.04,
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    used_ids = {name for pair in used for name in pair if name}
    text = re.sub(r' id="([^"]+)"', lambda match: f' id="{key}-{match[1]}"' if match[1] in used_ids else "", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{key}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", text)
    text = re.sub(r"font(-family)?: ?([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font\1: \2var(--font)", text)
    for colour, variable in _THEMED.items():
        text = text.replace(colour, variable)
    view = re.search(r'viewBox="[^"]+"', text)
    if view is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox")
    opening = f'<svg {view.group()} role="img" aria-label="{escape(description)}">'
    return Markup(re.sub(r"<svg\b[^>]*>", lambda _: opening, text, count=1))
