"""``fastlift data prepare NAME``: step by step what a data set needs, what of it is there, and the index written."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastlift.data.datasets.catalogue import load_data_set, source_of
from fastlift.data.datasets.published import Published
from fastlift.data.datasets.published_lists import place_of_list, told_place
from fastlift.data.index.header_scan import Progress
from fastlift.data.stores.url import Url, place_of
from fastlift.errors import UserError
from fastlift.system.files import cache_folder, expand_user
from fastlift.system.printing import masked


@dataclass(frozen=True)
class Step:
    """One thing that the set needs."""

    title: str
    done: bool
    detail: str  # where it is, or what is wrong


@dataclass(frozen=True)
class PrepareResult:
    """How far a data set has got."""

    dataset: str
    steps: tuple[Step, ...]
    hint: str  # how to go on; empty when ready

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return all(step.done for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ready": self.ready}

    def render(self) -> Any:
        """A rich renderable: a line a step, then how to go on."""
        from rich.text import Text

        text = Text()
        for number, step in enumerate(self.steps):
            text.append("\n" if number else "")
            text.append("done     " if step.done else "missing  ", style="green" if step.done else "red")
            text.append(f"{step.title}: {step.detail}")
        return text.append(f"\n{self.hint}" if self.hint else "")


def prepare(name: str, *, progress: Progress | None = None, **options: Any) -> PrepareResult:
    """Look step by step for what a set needs (downloading CIFAR and lists, drawing shapes), then check it and write its index.

    ``options`` are those of ``load_data_set``. Raises UserError for an unknown name.
    """
    source = source_of(name)
    known = source if isinstance(source, Published) else None

    def index() -> str:
        data = load_data_set(name, rescan=True, progress=progress, **options)
        counts = ", counts as published" if known else ""
        return f"{data.told_images()} of {len(data.class_names):,} classes, all headers read{counts}"

    steps: list[Step] = []
    for title, attempt in [*(_files(known, options, progress) if known else ()), (source.last_step, index)]:
        try:
            steps.append(Step(title, True, attempt()))
        except UserError as error:
            steps.append(Step(title, False, str(error).split("\nHow to get")[0]))
    missing = known is not None and not all(step.done for step in steps)
    return PrepareResult(name, tuple(steps), source.how_to_get().strip() if missing else "")


def _files(known: Published, options: dict[str, Any], progress: Progress | None) -> list[tuple[str, Callable[[], str]]]:
    """Titles, and functions that give the detail of a done step or raise UserError."""

    def root() -> Path | Url:
        given = options.get("data_root")
        if given is None:
            raise UserError("not given (--data-root)")
        place = place_of(given)
        if isinstance(place, Path) and not place.is_dir():
            raise UserError(f"{given} is not a folder")
        return place

    def images() -> str:
        place = root()
        if isinstance(place, Url):
            return f"below {place}: the index tells whether they are there"
        if missing := [folder for folder in known.image_folders if not (place / folder).is_dir()]:
            raise UserError(f"no folder {' and '.join(missing)} in {place}")
        return ", ".join(str(place / folder) for folder in known.image_folders)

    def file(flag: str) -> str:
        given = options.get(flag)
        if given is not None:
            place = place_of_list(given)
            if not place.is_file():
                raise UserError(f"{masked(str(given))} does not exist")
            return told_place(place) if isinstance(place, Path) else str(place)
        images = place_of(options["data_root"]) if options.get("data_root") else None
        cache = expand_user(Path(options.get("cache_dir") or cache_folder()))
        return told_place(known.find_list(flag, images, cache, progress))

    return [
        ("data root", lambda: str(root())),
        ("image folders", images),
        ("training list", lambda: file("train_list")),
        ("test list", lambda: file("test_list")),
        ("class names", lambda: file("class_names")),
    ]
