"""What a data set is: two splits with the same classes, and how those are grouped by rank."""

from dataclasses import dataclass, field

import numpy as np

from fastlift.data.index.index import ImageIndex


@dataclass(frozen=True)
class Rank:
    """The classes grouped at a higher rank (iNaturalist: kingdom to genus)."""

    names: tuple[str, ...]  # of the G groups
    of_class: np.ndarray  # int64 [C], the group of each class


@dataclass(frozen=True)
class DataSet:
    """A training and a test split with the same classes."""

    name: str
    train: ImageIndex
    test: ImageIndex
    class_names: tuple[str, ...]
    group_counts: np.ndarray  # int64 [C]: the training counts that define many, medium and few
    ranks: dict[str, Rank] = field(default_factory=dict)  # by name, from the highest to the lowest
