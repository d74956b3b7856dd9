"""What a model says of one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from fastlift.settings import Between, Settings
from fastlift.system.html_table import html_table

NONE_OF_THESE = "none of these"
SHOWN = 30  # rows of a table in a notebook


@dataclass(frozen=True)
class AnswerSettings(Settings):
    """How much is told of each image, and when it is given a class."""

    top: Annotated[int, Between(1)] = 5
    """How many classes to name, the most probable first."""
    threshold: Annotated[float | None, Between(0, 1)] = None
    """An image whose most probable class has a softmax probability below this is "none of these" (default: 0; with --calibrated
    the fitted one, if there is one)."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a model says of one image: the most probable classes, best first, as many as were asked for.

    The probabilities are the softmax over all classes of the logits, or of their mean over several crops. They say how the
    model shares its belief among its own classes, so a ``threshold`` sorts out what it is unsure of, and not all that is
    foreign.
    """

    image: str  # what it is called: its path, SHARD/MEMBER, or "image 3", counted from 0, where it has none
    names: tuple[str, ...] = ()  # of the classes
    probabilities: tuple[float, ...] = ()  # in 0..1, falling
    classes: tuple[int, ...] = ()  # numbers of the classes, in the order of the model's ``class_names``
    threshold: float = 0.0  # what the first probability has to reach
    features: np.ndarray | None = field(default=None, compare=False)  # float32 [D], where they were asked for
    problem: str = ""  # why there is no prediction; empty where there is one

    @property
    def answer(self) -> str | None:
        """The most probable class if its probability reaches the ``threshold``; None for "none of these", or a problem."""
        return self.names[0] if self.names and self.probabilities[0] >= self.threshold else None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, probabilities to six decimals: ``path``, ``answer``, ``top``; or ``path``, ``problem``."""
        if self.problem:
            return {"path": self.image, "problem": self.problem}
        pairs = zip(self.names, self.probabilities, strict=True)
        top = [{"class": name, "probability": round(value, 6)} for name, value in pairs]
        return {"path": self.image, "answer": self.answer, "top": top}

    def __str__(self) -> str:
        if self.problem:
            return f"{self.image}: no prediction: {self.problem}"
        pairs = zip(self.names, self.probabilities, strict=True)
        named = ", ".join(f"{name} {100 * value:.1f} %" for name, value in pairs)
        return f"{self.image}: {named if self.answer is not None else f'{NONE_OF_THESE} ({named})'}"

    def _repr_html_(self) -> str:
        """The named classes as a table, for notebooks."""
        pairs = zip(self.names, self.probabilities, strict=True)
        told = f"no prediction: {self.problem}" if self.problem else (self.answer or NONE_OF_THESE)
        rows = [(name, f"{100 * value:.1f} %") for name, value in pairs]
        return html_table(f"{self.image}: {told}", ("class", "probability"), rows)

    def __repr__(self) -> str:
        with_features = "" if self.features is None else f", features [{len(self.features)}]"
        return f"<Prediction {self}{with_features}>"


class Predictions(list[Prediction]):
    """Predictions of several images, in their order: a list that notebooks show as a table, of its first rows if it is long."""

    def _repr_html_(self) -> str:
        """One row an image, for notebooks."""
        rows = []
        for one in self[:SHOWN]:
            told = one.problem or (one.answer or NONE_OF_THESE)
            rows.append((one.image, told, f"{100 * one.probabilities[0]:.1f} %" if one.probabilities else None))
        more = f", of which {SHOWN} are shown" if len(self) > SHOWN else ""
        return html_table(f"{len(self):,} images{more}", ("image", "answer", "probability"), rows)
