"""Thumbnails on the page: the mistakes that the model was surest of, and images of the rarest classes."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from fastlift.evaluation.intervals import wilson
from fastlift.evaluation.thumbnails import ThumbnailSettings
from fastlift.reporting.record import RunRecord
from fastlift.runs.predictions import Predictions

PAGE_BYTES = 3 * 2**20
"""Of all thumbnails on a page, as they stand in it (base64); those beyond are left out."""
_URI = "data:image/jpeg;base64,"


@dataclass(frozen=True)
class Shown:
    """One test image: a data URI (empty without a thumbnail), its names, and probabilities as text."""

    uri: str
    file: str
    label: str
    predicted: str
    right: bool
    confidence: str
    label_probability: str


@dataclass(frozen=True)
class RareClass:
    """A class with few training images, and some of its test images."""

    name: str
    facts: str
    images: list[Shown]


@dataclass
class Thumbnails:
    """Thumbnails of a run as data URIs, each counted once, until ``left`` bytes are used."""

    found: Predictions
    names: list[str]
    left: int
    _uris: dict[int, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Thumbnails handed out."""
        return len(self._uris)

    def shown(self, place: int) -> Shown:
        """An image by its place in the predictions."""
        images = self.found.images
        label, predicted = int(images.labels[place]), int(images.predicted[place])
        return Shown(
            uri=self._uri(int(images.rows[place])),
            file=self.found.file(place),
            label=self.names[label],
            predicted=self.names[predicted] if predicted >= 0 else "NaN or infinity",
            right=predicted == label,
            confidence=_percent(float(images.confidence[place])),
            label_probability=_percent(float(images.label_probability[place])),
        )

    def _uri(self, row: int) -> str:
        if row in self._uris or row not in self.found.thumbnails:
            return self._uris.get(row, "")
        uri = _URI + base64.b64encode(self.found.thumbnails[row]).decode()
        if len(uri) > self.left:
            return ""
        self.left -= len(uri)
        self._uris[row] = uri
        return uri


@dataclass(frozen=True)
class Gallery:
    """What the page shows of a run's test images; ``count`` thumbnails, which take ``used`` bytes."""

    worst: list[Shown]
    rarest: list[RareClass]
    count: int
    used: int


def gallery(run: RunRecord, most_bytes: int) -> Gallery | None:
    """The test images that a run shows, with thumbnails of ``most_bytes`` on the page at most; None where it keeps none."""
    found = run.predictions
    if found is None or not found.wanted:
        return None
    chosen, names = ThumbnailSettings(thumbnails=found.wanted), run.class_names()
    thumbnails = Thumbnails(found, names, most_bytes)
    worst = [thumbnails.shown(place) for place in chosen.worst(found.images).tolist()]
    counts = run.data.get("class_counts") or []
    rarest = []
    for places in chosen.rarest(found.images, counts) if len(counts) == len(names) else []:
        label = int(found.images.labels[places[0]])
        facts = f"{_images(counts[label], 'training image')}; {_accuracy(run, label)}"
        rarest.append(RareClass(names[label], facts, [thumbnails.shown(place) for place in places.tolist()]))
    used = most_bytes - thumbnails.left
    return Gallery(worst, rarest, thumbnails.count, used) if worst or rarest else None


def _accuracy(run: RunRecord, label: int) -> str:
    assert run.confusions is not None
    right, images = int(run.confusions.right[label]), int(run.confusions.images[label])
    low, high = wilson(right, images)
    return f"{right} of {_images(images, 'test image')} right ({100 * low:.0f} to {100 * high:.0f} %)"


def _images(count: int, one: str) -> str:
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if 0.005 <= share < 0.995 else 1}f}\u00a0%"
