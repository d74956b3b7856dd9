"""The section "Where to spend" of the page, from a run's ``advice.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastlift.advice.ranking import ClassCost
from fastlift.advice.record import Advice, Growth, ImageName
from fastlift.reporting.advice import figure_name, made_of, sections
from fastlift.reporting.advice_words import Section, growth_rows
from fastlift.reporting.plots import Plot, colour, plain_number
from fastlift.reporting.svg import INK, MUTED, drawing, inline_svg

_DRAWN_CLASSES = 20
_TABLE_CLASSES = 200
_TABLE_PAIRS = 200
_SHOWN_PAIRS = 24
_URI = "data:image/jpeg;base64,"


@dataclass(frozen=True)
class Thumbnail:
    """An image below a heading: a data URI (empty without a thumbnail), its class and file."""

    uri: str
    label: str
    file: str


@dataclass(frozen=True)
class ShownPair:
    """A test image beside the training image that it is a copy of."""

    test: Thumbnail
    train: Thumbnail
    facts: str


@dataclass(frozen=True)
class AdvicePart:
    """A section with what is drawn of it; ``doubts``: images above their label and what they look like; ``more``: a second table."""

    table: Section
    doubts: list[tuple[Thumbnail, str]] = field(default_factory=list)
    more: Section | None = None
    plots: list[Plot] = field(default_factory=list)
    pairs: list[ShownPair] = field(default_factory=list)


@dataclass(frozen=True)
class AdviceOnPage:
    """What the page shows of one run's advice; ``count`` thumbnails."""

    summary: str
    parts: list[AdvicePart]
    made_of: str
    notes: tuple[str, ...]
    count: int


@dataclass
class _Thumbnails:
    """Thumbnails, until ``left`` bytes of them are used."""

    advice: Advice
    left: int
    count: int = 0

    def of(self, image: ImageName) -> Thumbnail:
        found = self.advice.thumbnails.get(image.key, "")
        if len(found) > self.left:
            found = ""
        self.left -= len(found)
        self.count += bool(found)
        return Thumbnail(found and _URI + found, image.label, image.file)


def advice_on_page(advice: Advice, key: str, most_bytes: int) -> AdviceOnPage:
    """What the page shows.

    Args:
        key: unique on the page, for ids of drawings.
        most_bytes: of thumbnails; 0 for none.
    """
    thumbnails, parts = _Thumbnails(advice, most_bytes), []
    for table in sections(advice, _TABLE_CLASSES, _TABLE_PAIRS):
        if table.title.startswith("The classes"):
            parts.append(AdvicePart(table, plots=[_lost_plot(advice, key)]))
        elif "labels" in table.title:
            split = "train" if table.title.startswith("Training") else "test"
            parts.append(AdvicePart(table, doubts=_doubts(advice, split, thumbnails) if most_bytes else []))
        elif advice.growth is not None and table.title.startswith("What more"):
            parts.append(AdvicePart(table, plots=[_law_plot(advice.growth, key)], more=_all_classes(advice.growth)))
        else:
            parts.append(AdvicePart(table, pairs=_pairs(advice, thumbnails) if most_bytes else []))
    interval = "" if advice.low is None else f" ({advice.low:.1f} to {advice.high:.1f})"
    summary = (
        f"What {figure_name(advice)}, {advice.value:.1f} %{interval}, loses and to whom, by the record of this run."
    )
    return AdviceOnPage(summary, parts, made_of(advice), advice.notes, thumbnails.count)


def _pairs(advice: Advice, thumbnails: _Thumbnails) -> list[ShownPair]:
    if advice.duplicates is None:
        return []
    return [
        ShownPair(thumbnails.of(pair.test), thumbnails.of(pair.train), f"{pair.how}, {pair.similarity:.3f}")
        for pair in advice.duplicates.pairs[:_SHOWN_PAIRS]
    ]


def _doubts(advice: Advice, split: str, thumbnails: _Thumbnails) -> list[tuple[Thumbnail, str]]:
    found = next(one for one in advice.labels if one.split == split)
    return [(thumbnails.of(one.image), f"{one.suggested} ({one.score:.2f})") for one in found.doubts[:_SHOWN_PAIRS]]


def _all_classes(growth: Growth) -> Section:
    headings, rows = growth_rows(growth, _TABLE_CLASSES)
    return Section("What more images of each class would bring", (), tuple(headings), tuple(rows), (1, 2, 3))


def _law_plot(growth: Growth, key: str) -> Plot:
    """The common curve, and the accuracies that it was fitted on, by group."""
    with drawing() as (figure, axes):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(plain_number)
        axes.plot(*zip(*growth.law, strict=True), color=MUTED, linewidth=1.6, label="common curve")
        for row, one in enumerate(growth.measured):
            label = f"{one.group} ({one.classes} classes)"
            axes.plot(one.images, one.accuracy, "o-", markersize=4, linewidth=1, color=colour(row), label=label)
        axes.set(xlabel="training images of the class", ylabel="held-out accuracy (%)")
        axes.legend()
        svg = inline_svg(figure, f"{key}-law", "Held-out accuracy against training images of a class, by group")
    caption = (
        "Dots: counted with all images of a class, a half, a quarter, an eighth and a sixteenth. Line: the inverse power law of "
        "all classes, from which each has its own offset."
    )
    return Plot("Accuracy with fewer images", caption, svg)


def _lost_plot(advice: Advice, key: str) -> Plot:
    """Bars of the points that the dearest classes cost, with their intervals."""
    shown: Sequence[ClassCost] = advice.classes[:_DRAWN_CLASSES]
    with drawing(width_in=4.6, height_in=0.9 + 0.21 * len(shown)) as (figure, axes):
        places = range(len(shown))
        lost = [one.lost for one in shown]
        axes.barh(places, lost, height=0.7, color=colour(0), alpha=0.75)
        spread = [[one.lost - one.lost_low for one in shown], [one.lost_high - one.lost for one in shown]]
        axes.errorbar(lost, places, xerr=spread, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
        labels = [f"{_short(one.name)} ({one.train_images:,})" for one in shown]
        axes.set_yticks(list(places), labels, fontsize=8)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelcolor=MUTED)
        axes.set_xlabel(f"points of {figure_name(advice)} lost")
        svg = inline_svg(figure, f"{key}-lost", f"Points of {figure_name(advice)} that the dearest classes lose")
    caption = "The dearest classes, their training images in brackets, with 95 % intervals."
    return Plot("Points lost by class", caption, svg)


def _short(name: str, letters: int = 26) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
