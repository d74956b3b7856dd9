"""What the catalogue asks of a data set: its name, the files it takes, and how it is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.replacements import BadImages
from fastlift.data.index.scan import Progress


@dataclass(frozen=True)
class Request:
    """What the user gave, with ``~`` expanded and the defaults filled in."""

    name: str
    cache_dir: Path
    bad_images: BadImages
    rescan: bool  # look at all files again instead of trusting the cached sizes
    progress: Progress | None
    data_root: Path | None = None
    train_list: Path | None = None
    test_list: Path | None = None
    class_names: Path | None = None


class Source(ABC):
    """A data set by name. A subclass loads it; its file makes an instance, which has a line in the catalogue."""

    name: str
    takes_lists = False  # --train-list and --test-list
    takes_class_names = False  # --class-names
    last_step = "files found or downloaded, index"  # of ``fastlift data prepare``

    def named(self, name: str) -> Source | None:
        """The set of this name; None where it is none of this kind."""
        return self if name == self.name else None

    def how_to_get(self) -> str:
        """A hint that follows a message about a missing data root; empty where there is none."""
        return ""

    @abstractmethod
    def load(self, request: Request) -> DataSet:
        """Both splits, checked.

        Raises:
            UserError: something is missing, or there are problems in lists and images.
        """
