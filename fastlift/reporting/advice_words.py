"""An advice's words about labels that look wrong, and about what more images would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastlift.advice.gains import Check, Gain
from fastlift.advice.record import Growth, LabelDoubts

CANNOT = "cannot be told from this run"


@dataclass(frozen=True)
class Section:
    """One part of an advice: a heading, sentences above its table, the table's rows, sentences below it.

    ``numbers`` are the columns that hold numbers.
    """

    title: str
    sentences: tuple[str, ...]
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    below: tuple[str, ...] = ()


def labels_section(found: LabelDoubts, most: int) -> Section:
    """Labels of one split that look wrong."""
    split = "Training" if found.split == "train" else "Test"
    first = (
        f"For {found.above_half:,} of {found.judged:,} images a classifier that has not seen them holds another class for more probable. "
        "Most of these are hard images, not errors: look at the first ones."
    )
    if found.unjudged:
        first += f" {found.unjudged:,} images cannot be judged: no other training image is of their class."
    planted = found.planted
    (any_found, any_planted), (alike_found, alike_planted) = planted.of_any, planted.of_alike
    below = [
        f"Tried with {planted.planted:,} labels made wrong on purpose: {_percent(planted.found, planted.planted)} of the {planted.planted:,} most "
        f"doubtful are such (of those moved to any class {any_found:,} of {any_planted:,}, to the most alike class {alike_found:,} of "
        f"{alike_planted:,}), and {_percent(planted.found_in_twice, planted.planted)} of them are among twice as many. True errors count as "
        "false there, so it is at least as good."
    ]
    if found.split == "train":
        below.append(
            "The backbone was trained on the given labels, also on wrong ones: true errors may hide better than planted ones."
        )
    rows = tuple((one.image.file, one.image.label, one.suggested, f"{one.score:.3f}") for one in found.doubts[:most])
    headings = ("Image", "Its label", "Looks like", "Score")
    return Section(f"{split} labels that look wrong", (first,), headings, rows, (3,), tuple(below))


def growth_section(found: Growth, figure: str, most: int) -> Section:
    """What more images would bring."""
    named = f"{found.budget:,} more training images"
    sentences = []
    if not found.checks:
        sentences.append(
            f"What more images bring {CANNOT}: too few classes have several images to try the estimate on."
        )
    elif found.planned.is_told:
        sentences.append(
            f"{named}, given to the classes below, would raise {figure} by {_points(found.planned)} points."
        )
        sentences.append(
            f"Spread evenly over all classes: {_points(found.even)}; as the classes are now: {_points(found.proportional)}."
        )
    else:
        sentences.append(
            f"Where {named} would raise {figure} most {CANNOT}: the best plan promises {_points(found.planned)} points, less than the "
            "error of such estimates."
        )
    if found.checks:
        told = _points(found.doubled) if found.doubled.is_told else f"{CANNOT} ({_points(found.doubled)})"
        sentences.append(f"Twice as many images of every class: {told}.")
    if found.untold:
        sentences.append(
            f"Of {found.untold:,} classes nothing can be told: with one image there is none to count on beside the one to learn from."
        )
    below = [_check_words(one) for one in found.checks]
    below.append(
        f"Only the classifier is fitted again (held near its {'text features' if found.start == 'text' else 'class means'}, strength "
        f"{found.strength:g}), on features of the trained backbone, which has seen all images: what a longer training of the backbone would "
        "make of more images is not in these figures."
    )
    if not found.apart:
        below.append(
            f"Counted on training images that were held out of the fit; the backbone has seen them. The same classifier is right for {found.seen:.1f} % "
            f"of them and for {found.unseen:.1f} % of the test images (means over the classes)."
        )
    rows = tuple(
        (one.name, f"{one.train_images:,}", f"+{one.more:,}", _points(one.gain), "yes" if one.gain.is_told else "no")
        for one in (found.plan[:most] if found.planned.is_told else ())
    )
    headings = ("Class", "Training images", "More", "Its accuracy gains", "Alone above 0")
    return Section("What more training images would bring", tuple(sentences), headings, rows, (1, 2), tuple(below))


def _check_words(one: Check) -> str:
    return (
        f"Tried from 1/{one.factor} of the images to all, in {one.classes:,} classes: gain of {one.predicted:+.1f} points predicted, "
        f"{one.measured:+.1f} counted; off by {one.error:.1f} in a class ({one.error_of_none:.1f} if no gain is predicted, {one.chance:.1f} by chance "
        f"alone); {100 * one.coverage:.0f} % of the classes lie in their 95 % intervals."
    ).replace("-", "−")


def _points(gain: Gain) -> str:
    return f"{gain.value:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})".replace("-", "−")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.0f} %"


def growth_rows(found: Growth, most: int) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Every class with what twice as many, and all that could be added, would bring: headings and rows."""
    headings = (
        "Class",
        "Training images",
        "Held-out images",
        "Accuracy (%)",
        "Twice as many",
        f"+{found.budget:,} images",
    )
    rows = [
        (
            one.name,
            f"{one.train_images:,}",
            f"{one.held_out:,}",
            f"{one.accuracy:.1f}",
            *(CANNOT if gain is None or not gain.is_told else _points(gain) for gain in (one.twice, one.more)),
        )
        for one in found.classes[:most]
    ]
    return headings, rows
