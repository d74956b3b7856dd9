"""An advice in sentences and tables: what the terminal shows; the page shows the same (``advice_page``)."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from fastlift.advice.ranking import ClassCost, Neighbour
from fastlift.advice.record import Advice, Duplicates, Pair
from fastlift.reporting.advice_words import Section, growth_section, labels_section
from fastlift.reporting.figures import FIGURES

SHOWN_CLASSES = 12
SHOWN_PAIRS = 12
_HOW = {"content": "same file or path", "copy": "same at 8 x 8 pixels", "features": "same features"}


def figure_name(advice: Advice) -> str:
    """The figure that is to rise, in words within a sentence."""
    title = next((figure.plain_title for figure in FIGURES if figure.name == advice.figure), advice.figure)
    return title[0].lower() + title[1:]


def sections(advice: Advice, classes: int, pairs: int, *, wide: bool = True) -> list[Section]:
    """What an advice found, with so many rows at most; ``wide``: all that is told of a class, which a terminal has no room for."""
    found = []
    if advice.classes:
        found.append(_classes(advice, classes, wide))
    found += [labels_section(one, pairs) for one in advice.labels]
    if advice.duplicates is not None:
        found.append(_duplicates(advice.duplicates, pairs))
    if advice.growth is not None:
        found.append(growth_section(advice.growth, figure_name(advice), classes))
    return found


def made_of(advice: Advice) -> str:
    """What was used, in a sentence."""
    told = [f"figures of the evaluation {advice.evaluation}"]
    if advice.every > 1:
        told[0] += f" (of its test images one in {advice.every} is kept)"
    for split, count in advice.looked_at.items():
        whole = advice.of.get(split, count)
        told.append(f"{count:,} {'' if count == whole else f'of {whole:,} '}{_SPLITS.get(split, split)} images")
    if advice.checkpoint:
        told.append(f"features of {advice.checkpoint} on {advice.device}")
    seconds = sum(advice.seconds.values())
    return f"Made of {', '.join(told)}; seed {advice.seed}; {seconds:.0f} s."


_SPLITS = {"train": "training", "val": "validation"}


def advice_text(advice: Advice) -> RenderableType:
    """For the terminal."""
    interval = "" if advice.low is None else f" ({advice.low:.1f} to {advice.high:.1f})"
    parts: list[RenderableType] = [
        Text(f"Where to spend: {figure_name(advice)} is {advice.value:.1f} %{interval}", style="bold")
    ]
    for section in sections(advice, SHOWN_CLASSES, SHOWN_PAIRS, wide=False):
        parts += [Text(), Text(section.title, style="bold"), *map(Text, section.sentences)]
        if section.rows:
            parts.append(_table(section))
        parts += map(Text, section.below)
    parts += [Text(), *map(Text, advice.notes), Text(made_of(advice), style="dim")]
    return Group(*parts)


def _table(section: Section) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    for at, heading in enumerate(section.headings):
        is_number = at in section.numbers
        table.add_column(
            heading, justify="right" if is_number else "left", no_wrap=is_number or " %" in heading, overflow="fold"
        )
    for row in section.rows:
        table.add_row(*map(Text, row))
    return table


def _classes(advice: Advice, most: int, wide: bool) -> Section:
    shown, lost = advice.classes[:most], sum(one.lost for one in advice.classes)
    first = f"All mistakes together cost {lost:.1f} points of {figure_name(advice)}"
    if len(shown) < len(advice.classes):
        of_shown = sum(one.lost for one in shown)
        first += f", those of the {len(shown)} dearest of {len(advice.classes):,} classes {of_shown:.1f}"
    images = {one.test_images for one in advice.classes}
    few = (
        f"With {min(images):,} to {max(images):,} test images a class"
        if len(images) > 1
        else f"With {min(images):,} test images a class"
    )
    below = f"{few}, the order is uncertain: the interval of an accuracy is that of chance in the choice of its test images."
    rows = tuple(_class_row(one, wide) for one in shown)
    headings: tuple[str, ...] = (
        "Class",
        "Training images",
        "Accuracy (%)",
        "95 % interval",
        "Points lost",
        "Taken for",
        "Others taken for it",
    )
    if not wide:
        headings = ("Class", "Training", "Right (%)", "95 %", "Lost", "Mostly taken for")
    return Section("The classes that lose most", (f"{first}.",), headings, rows, (1, 2, 4), (below,))


def _class_row(one: ClassCost, wide: bool) -> tuple[str, ...]:
    numbers = f"{one.train_images:,}", f"{one.accuracy:.1f}", f"{one.low:.0f} to {one.high:.0f}", f"{one.lost:.2f}"
    if wide:
        return one.name, *numbers, _listed(one.taken_for[:2]), _listed(one.takes[:2])
    return one.name, *numbers, _listed(one.taken_for[:1])


def _listed(neighbours: Sequence[Neighbour]) -> str:
    return ", ".join(f"{one.name} ({one.count}, {one.share:.0f} %)" for one in neighbours) or "–"


def _duplicates(found: Duplicates, most: int) -> Section:
    total = sum(found.count.values())
    counted = ", ".join(f"{count:,} by {_BY[how]}" for how, count in found.count.items() if count)
    told = (
        f"{total:,} test image{'s look like copies' if total != 1 else ' looks like a copy'} of training images: {counted}."
        if total
        else f"None of {found.searched:,} test images is a copy of one of {found.among:,} training images, as far as this search tells."
    )
    sentences = [told]
    if found.other_label:
        sentences.append(f"{found.other_label:,} of these pairs have two labels, of which at most one is right.")
    for one in found.without:
        name = next(figure.plain_title for figure in FIGURES if figure.name == one.name)
        sentences.append(
            f"{name} without them: {one.left_value:.1f} % ({one.left_low:.1f} to {one.left_high:.1f}) of {one.left_images:,} images, "
            f"in place of {one.value:.1f} % ({one.low:.1f} to {one.high:.1f}) of {one.images:,}."
        )
    rows = tuple(_pair_row(pair) for pair in found.pairs[:most])
    headings = ("Test image", "Its class", "Training image", "Its class", "Found by", "Similarity")
    return Section(
        "Test images that the training split holds", tuple(sentences), headings, rows, (5,), _how_sure(found)
    )


_BY = {"content": "content or path", "copy": "their look at 8 x 8 pixels", "features": "their features"}


def _pair_row(pair: Pair) -> tuple[str, ...]:
    return pair.test.file, pair.test.label, pair.train.file, pair.train.label, _HOW[pair.how], f"{pair.similarity:.3f}"


def _how_sure(found: Duplicates) -> tuple[str, ...]:
    """What the search misses and how much of it may be chance."""
    told = []
    if found.tried:
        each = "; ".join(f"{one.how} {one.found} of {one.tried}" for one in found.tried)
        told.append(f"Tried on altered copies of training images, the search found: {each}.")
    limits = {how: limit for how, limit in found.thresholds.items() if limit.similarity is not None}
    if limits:
        each = ", ".join(f"{limit.similarity:.3f} ({_BY[how]})" for how, limit in limits.items())
        among = " and ".join(f"{limit.among_training}" for limit in limits.values())
        told.append(
            f"Least similarity of a pair: {each}, where the tail of the training images' own neighbours lets "
            f"{max(limit.expected_false for limit in limits.values()):.1f} false pairs be expected; {among} of them have a neighbour as near "
            "among themselves."
        )
    else:
        told.append(
            "The training images are too few to tell from which similarity on two are one: only content was compared."
        )
    return tuple(told)
