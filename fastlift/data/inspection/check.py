"""``fastlift data check``: everything that is wrong with a data set."""

import contextlib
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.dataset import told_images
from fastlift.data.index.header_scan import Progress
from fastlift.data.index.index import ImageIndex
from fastlift.data.index.problems import SHOWN, Problems, UnusableData
from fastlift.data.inspection.same_images import told_same_images
from fastlift.data.loading.decode import load_image
from fastlift.data.loading.reading import DecodeError
from fastlift.system.machine import cpus
from fastlift.system.printing import printable


@dataclass(frozen=True)
class CheckResult:
    """What ``check`` found; ``problems`` is empty for a usable set."""

    dataset: str
    problems: tuple[str, ...]
    hint: str  # how to get the data, where that may help
    images: dict[str, int]  # by split; empty where the set could not be loaded
    classes: int
    looked_at: str  # "headers" of the files, "shards" of a pack, "arrays", or "pictures": every one decoded
    seconds: float
    notes: tuple[str, ...] = ()  # what is no problem, and worth knowing

    @property
    def ok(self) -> bool:
        """Whether the set is usable."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ok": self.ok}

    def render(self) -> Any:
        """A rich renderable: the first problems, or a line that all is well."""
        from rich.text import Text

        if self.ok:
            how = {
                "headers": "all headers read",
                "shards": "shards whole, no image read",
                "arrays": "arrays read",
                "pictures": "every image decoded",
            }[self.looked_at]
            fine = (
                f"{self.dataset}: fine. {told_images(self.images)}, "
                f"{self.classes:,} classes; {how} in {self.seconds:.1f} s"
            )
            return Text("\n").join([Text(fine, style="green"), *(Text(printable(note)) for note in self.notes)])
        shown = Problems(self.dataset, self.hint, list(self.problems)).message()
        more = f"\n(all {len(self.problems):,} with --json)" if len(self.problems) > SHOWN else ""
        return Text(shown + more)


def check(name: str, *, decode: bool = False, progress: Progress | None = None, **options: Any) -> CheckResult:
    """Look for everything that is wrong with a data set: lists, counts, missing and unreadable files, all looked at anew.

    Args:
        name: of the data set; ``options`` as for ``load_data_set``.
        decode: decode every image whose header is fine as well (slow: about a thousand a second on two cores).

    Raises:
        UserError: wrong use, or lists and folders that are not there at all.
    """
    start = time.perf_counter()
    entries: list[str] = []
    hint, data = "", None
    try:
        data = load_data_set(name, rescan=True, progress=progress, **options)
    except UnusableData as error:
        entries, hint = error.problems.entries, error.problems.hint
        if decode:
            with contextlib.suppress(UnusableData):  # the images that are left
                data = load_data_set(name, bad_images="skip", **options)
    if data is not None and (why := data.one_class()):
        entries.append(why)
    if decode and data is not None:
        entries += [entry for index in data.splits.values() for entry in _undecodable(index, progress)]
    elif decode:
        hint = f"No image was decoded: that needs usable lists.\n{hint}".rstrip()
    images = {} if data is None else {split: len(index) for split, index in data.splits.items()}
    classes = 0 if data is None else len(data.class_names)
    looked_at = "headers" if data is None else "pictures" if decode else _kind(data.train)
    problems, notes = tuple(dict.fromkeys(entries)), () if data is None else data.notes
    if data is not None:
        notes = (*notes, *told_same_images(data.splits, progress))
    return CheckResult(name, problems, hint, images, classes, looked_at, time.perf_counter() - start, notes)


def _kind(index: ImageIndex) -> str:
    if index.arrays is not None:
        return "arrays"
    return "headers" if index.spans is None else "shards"


def _undecodable(index: ImageIndex, progress: Progress | None) -> Iterable[str]:
    """Decode all images of a split; those that fail, with the reason."""
    if index.arrays is not None:
        return

    def attempt(i: int) -> str:
        try:
            load_image(index, i)
        except DecodeError as error:
            return f"{index.label_of(i)}: {error}"
        return ""

    with ThreadPoolExecutor(cpus()) as pool:
        for done, problem in enumerate(pool.map(attempt, range(len(index))), start=1):
            if progress and (done % 100 == 0 or done == len(index)):
                progress(f"decode {index.name}", done, len(index))
            if problem:
                yield problem
