"""How often an epoch draws the images of each class: as often as there are, or rare classes more often than that.

Re-sampling by class (Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020). An epoch
has as many draws as there are images. Nothing of it is left to chance that could be exact: each class has its share of the
draws, rounded to a neighbouring whole number, and its images take turns.

Legend of shapes: C classes, N images and draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np

from fastlift.data.index.index import ImageIndex
from fastlift.data.sampling.crops import schedule_value
from fastlift.data.sampling.philox import in_a_row
from fastlift.errors import UserError
from fastlift.settings import Acts, Settings
from fastlift.settings.validate import Rule

Sampling = Literal["shuffle", "square_root", "balanced", "progressive"]

# Shares of an epoch are whole numbers of such parts of a draw: sums of them are exact, so that a share of 7 draws is 7.
_PARTS = 2**24
_GOLDEN = round(
    _PARTS * (5**0.5 - 1) / 2
)  # between the offsets of two epochs; odd, so they only come again after 2**24
_TURNS, _OFFSET = 2, 3  # places in NumPy's Philox stream, beside those of samples (0) and shards (1)
_AT_A_TIME = 2**20


def _not_by_shards(sampling: Sampling, shuffle_shards: int | None) -> str | None:
    if sampling == "shuffle" or shuffle_shards is None:
        return None
    return (
        f"--sampling {sampling} draws the images of a class from all shards, and --shuffle-shards reads few of them at a time: all "
        "draws of a rare class would come together. Leave one of the two out"
    )


@dataclass(frozen=True)
class SamplingSettings(Settings):
    """How often the images of a class come in an epoch."""

    sampling: Annotated[
        Sampling,
        Acts(
            "how often training draws the images of each class (epochs 1 or more, progressive 2 or more)",
            lambda epochs, sampling: epochs > (sampling == "progressive"),
        ),
    ] = "shuffle"
    """Share of class c in an epoch of N draws: shuffle, n_c / N (each image once); square_root, in proportion to n_c^(1/2); balanced,
    1 / C; progressive, from shuffle's in the first epoch to balanced in the last. The loss corrects for these shares (docs/data.md)."""
    RULES: ClassVar[tuple[Rule, ...]] = (_not_by_shards,)

    def check(self, index: ImageIndex) -> None:
        """Refuse to re-sample classes that all have as many images. Raises: UserError."""
        counts = index.class_counts()
        if self.sampling != "shuffle" and counts.min() == counts.max():
            raise UserError(
                f"sampling {self.sampling} would change nothing here: all classes of {index.name} have {counts[0]:,} images"
            )


def expected_draws(class_counts: np.ndarray, sampling: Sampling, epoch: int, epochs: int) -> np.ndarray:
    """Draws of each class in an epoch, on average: N q_c, float64 [C], of ``class_counts`` n, int [C], which sum to N.

    q_c is n_c / N (``shuffle``), n_c^(1/2) / sum n^(1/2) (``square_root``), 1 / C (``balanced``) or, with t from 0 in the first
    of the ``epochs`` to 1 in the last, (1 - t) n_c / N + t / C (``progressive``, as the authors' program has it). C counts the
    classes that have images; others have no draws.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    even = np.where(counts > 0, counts.sum() / max(np.count_nonzero(counts), 1), 0.0)
    if sampling == "square_root":
        roots = np.sqrt(counts)
        return counts.sum() / roots.sum() * roots
    t = {"shuffle": 0.0, "balanced": 1.0}.get(sampling, schedule_value("linear", epoch, epochs))
    return (1.0 - t) * counts + t * even


class ClassDraws:
    """The draws of all epochs, a function of ``labels`` (int64 [N]), ``seed`` and how many ``epochs`` there are.

    The images of a class stand in a random order for the whole run, and are drawn one after the other, again from the first behind
    the last, on into the next epoch. So of n images none is drawn again before the n - 1 others. (An order that is drawn anew each
    time round would have the last of one round be the first of the next, at times.)
    """

    def __init__(self, labels: np.ndarray, sampling: Sampling, seed: int, epochs: int) -> None:
        self._labels, self._sampling, self._seed, self._epochs = labels, sampling, seed, epochs
        self._counts = np.bincount(labels)  # n

    def quotas(self, epoch: int) -> np.ndarray:
        """Draws of each class: int64 [C], which sum to N; each is N q_c rounded up or down, so that over the epochs both occur.

        Systematic rounding: the shares of the classes lie in a row on a line of length N, and a class has as many draws as there
        are points of a grid of step 1 in its piece. The grid begins at a random offset that moves by the golden ratio each epoch, which
        spreads over the epochs what a share has beyond a whole number.
        """
        expected = expected_draws(self._counts, self._sampling, epoch, self._epochs)
        parts = np.rint(expected * _PARTS).astype(np.int64)
        parts[np.argmax(parts)] += len(self._labels) * _PARTS - parts.sum()  # less than a thousandth of a draw
        offset = (self._offset + epoch * _GOLDEN) % _PARTS
        return np.diff((np.cumsum(parts) + offset) // _PARTS, prepend=0)

    def before(self, epoch: int) -> np.ndarray:
        """Draws of each class in all epochs before: int64 [C]."""
        drawn = np.zeros(len(self._counts), dtype=np.int64)
        for earlier in range(epoch):
            drawn += self.quotas(earlier)
        return drawn

    def of(self, epoch: int) -> np.ndarray:
        """The draws of an epoch, class by class: int64 [N], sample + N * occurrence.

        The occurrence of a draw counts those of the same sample before it in this epoch.
        """
        n, counts, quotas = len(self._labels), self._counts, self.quotas(epoch)
        begins, images = np.cumsum(quotas) - quotas, np.cumsum(counts) - counts
        turn, drawn = self.before(epoch), np.empty(n, dtype=np.int64)
        for start in range(
            0, n, _AT_A_TIME
        ):  # by parts, since NumPy may hold the interpreter lock through each of them
            draws = np.arange(start, min(start + _AT_A_TIME, n))
            owner = (
                np.searchsorted(begins, draws, side="right") - 1
            )  # the last class to begin here is the one with draws
            place, size = draws - begins[owner], counts[owner]
            rows = images[owner] + (turn[owner] + place) % size
            drawn[start : start + len(draws)] = self._turns[rows] + n * (place // size)
        return drawn

    @cached_property
    def _turns(self) -> np.ndarray:
        """The samples, class by class, those of a class in their random order: int64 [N]."""
        shuffled = np.argsort(in_a_row(len(self._labels), self._seed, 0, _TURNS), kind="stable")
        return shuffled[np.argsort(self._labels[shuffled], kind="stable")]

    @cached_property
    def _offset(self) -> int:
        return int(in_a_row(1, self._seed, 0, _OFFSET)[0]) % _PARTS
