"""How the images of a set that is drawn, or cut from a balanced one, spread over its classes: imbalance ratio and head-to-tail ratio."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastlift.errors import UserError
from fastlift.settings import Acts, Between, Settings
from fastlift.settings.validate import Rule

DRAWN = "shapes_lt"
LARGEST, RATIO = 200, 100.0  # of the drawn set where nothing else is asked for
MOST_HEADS = 100  # training images: a class with more belongs to the head, which is the group "many" by default
_STEEPNESS = 5.0  # of both falls
_CUT = re.compile(r"cifar(10|100)_ir\d+")


def _is_drawn(dataset: str) -> bool:
    return dataset == DRAWN


def _has_a_head(dataset: str) -> bool:
    return dataset == DRAWN or _CUT.fullmatch(dataset) is not None


def _can_be_drawn(dataset: str, imbalance_ratio: float, head_share: float | None, largest_class: int) -> str | None:
    return refusal(largest_class, imbalance_ratio, head_share) if dataset == DRAWN else None


@dataclass(frozen=True)
class TailSettings(Settings):
    """How long the tail is, and how many classes are in it."""

    imbalance_ratio: Annotated[
        float,
        Between(1),
        Acts(
            "how many times as many images shapes_lt's largest class has as its smallest (CIFAR-LT: in its name)",
            _is_drawn,
        ),
    ] = RATIO
    """Images of the largest class of shapes_lt over those of the smallest; the names of CIFAR-LT hold it (cifar100_ir50)."""
    head_share: Annotated[
        float | None,
        Between(0, 1, "()"),
        Acts("the share of shapes_lt's or CIFAR-LT's classes that are head", _has_a_head),
    ] = None
    """Share of the classes of shapes_lt or CIFAR-LT with more than 100 training images, as LT-Soups cuts CIFAR-100: both these and the others fall exponentially, from the largest class to 101 images and from 100 to the smallest (default: one fall over all classes)."""
    largest_class: Annotated[int, Between(1, 5000), Acts("training images of shapes_lt's largest class", _is_drawn)] = (
        LARGEST
    )
    """Training images of the largest class of shapes_lt."""
    RULES: ClassVar[tuple[Rule, ...]] = (_can_be_drawn,)

    def name(self) -> str:
        """What differs from the defaults, as a part of a folder's name; empty where nothing does."""
        parts = {
            "max": (self.largest_class, LARGEST),
            "ir": (self.imbalance_ratio, RATIO),
            "head": (self.head_share, None),
        }
        return "".join(
            f"_{what}{str(value).removesuffix('.0')}" for what, (value, usual) in parts.items() if value != usual
        )


def refusal(largest: int, ratio: float, head_share: float | None) -> str | None:
    """Why no classes can have such numbers of images, in words for a user; None where they can."""
    smallest = largest / ratio
    if smallest < 1:
        return (
            f"imbalance_ratio {ratio:g}: the smallest class would have {largest} / {ratio:g} images, less than one; with "
            f"{largest} in the largest class the ratio is {largest} at most"
        )
    if head_share is not None and largest <= MOST_HEADS:
        return (
            f"head_share {head_share:g}: a class of the head has more than {MOST_HEADS} images, the largest class {largest}: "
            "raise --largest-class, or leave --head-share out"
        )
    if head_share is not None and smallest > MOST_HEADS:
        return (
            f"head_share {head_share:g}: a class of the tail has at most {MOST_HEADS} images, the smallest class {smallest:g}: "
            "raise the imbalance ratio, or leave --head-share out"
        )
    return None


def head_tail_counts(num_classes: int, largest: int, ratio: float, head_share: float) -> NDArray[np.int64]:
    """Training images of each class, from the largest to the smallest, with a head of round(share C) classes: int64 [C].

    A fall from a to b over K classes is n_k = int(b + (a - b) exp(-5 k / (K - 1))), k = 0 .. K - 1. The head falls from
    ``largest`` to 101, the tail from 100 to n_min = int(largest / ratio), which its last class has.

    Source: LT-Soups (NeurIPS 2025), controlled study on CIFAR-100, where largest = 500.

    Raises:
        UserError: what no classes can have (see ``refusal``), or a share that leaves no class to the head or to the tail.
    """
    if why := refusal(largest, ratio, head_share):
        raise UserError(why)
    heads = round(head_share * num_classes)
    if heads in (0, num_classes):
        left = "no head" if heads == 0 else "no tail"
        raise UserError(f"head_share {head_share:g} of {num_classes} classes is {heads} classes, which leaves {left}")
    smallest = int(largest / ratio + 1e-9)
    places = [np.linspace(0.0, 1.0, count) for count in (heads, num_classes - heads)]
    if len(places[1]) == 1:
        places[1] += 1.0  # the only class of the tail is its smallest
    head, tail = _fall(largest, MOST_HEADS + 1, places[0]), _fall(MOST_HEADS, smallest, places[1])
    return np.concatenate([head, tail])


def _fall(first: int, last: int, places: NDArray[np.float64]) -> NDArray[np.int64]:
    return (last + (first - last) * np.exp(-_STEEPNESS * places)).astype(np.int64)
