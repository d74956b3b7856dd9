"""A run is a folder of plain files, written atomically and read without fastlift.

``config.json`` settings; ``data.json`` classes, counts and fingerprints; ``metrics.jsonl`` one JSON object a line;
``tensorboard/``; ``checkpoints/*.safetensors``; ``results.json`` and ``report.html`` once it has ended.
"""

from __future__ import annotations

import datetime
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from fastlift import checkpoints
from fastlift.config import Config, absolute_paths, differences, load, to_dict
from fastlift.errors import UserError
from fastlift.files import read_json, write_json

# Settings that a resumed run may change: none of them changes what is computed, but for rounding.
OPERATIONAL = {
    "device",
    "workers",
    "threads",
    "memory",
    "executor",
    "checkpoint_steps",
    "log_steps",
    "profile",
    "recompute",
    "eval_batch",
    "tte",
    "tte_crops",
    "expand",
    "group_boundaries",
    "data_root",
    "bad_images",
}


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def profile(self) -> Path:
        return self.path / "profile.json"

    @property
    def bad_images(self) -> Path:
        return self.path / "bad_images.txt"

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels.

        Raises:
            UserError: the run stopped before it knew them, or ``data.json`` cannot be read.
        """
        if not self.data.is_file():
            raise UserError(f"{self.path} has no data.json: the run stopped before its model was built")
        names = read_json(self.data).get("class_names")
        if not isinstance(names, list):
            raise UserError(f"{self.data} has no class_names: it was changed or damaged")
        return tuple(names)

    def has_ended(self) -> bool:
        return self.results.is_file()

    def last_checkpoint(self) -> Path | None:
        saved = checkpoints.saved(self.checkpoints)
        return saved[-1] if saved else None

    def find_checkpoint(self, name: str | None) -> Path | None:
        """A checkpoint by its name (``epoch-003``), its path, or the last one; None where nothing was trained.

        Raises:
            UserError: no such checkpoint; the message lists those that are there.
        """
        if name is None:
            return self.last_checkpoint()
        for path in (Path(name), self.checkpoints / name, self.checkpoints / f"{name}.safetensors"):
            if path.is_file():
                return path
        there = ", ".join(path.stem for path in checkpoints.saved(self.checkpoints)) or "none"
        raise UserError(f"{self.path} has no checkpoint {name!r}; there are: {there}")


def default_path(config: Config) -> Path:
    """A new folder under ``runs/`` that says what and when."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.data.dataset}-{config.recipe}-{stamp}"


def open_run(path: Path) -> RunFolder:
    """An existing run.

    Raises:
        UserError: not a run folder.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        raise UserError(f"{path} is not a run folder: it has no config.json")
    return run


def check_free(path: Path, *, overwrite: bool) -> None:
    """A new run can be written to ``path``.

    Raises:
        UserError: the folder exists, and overwriting was not asked for; or it is not a run and will not be deleted.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise UserError(
            f"{path} exists; use --resume to go on with it, --overwrite to start again, or another --output"
        )
    if not RunFolder(path).config.is_file():
        raise UserError(f"{path} is not a run folder (no config.json), so --overwrite leaves it alone")


def create(path: Path, config: Config, *, overwrite: bool) -> RunFolder:
    """A new run folder with its ``config.json``, in place of an old run where overwriting was asked for.

    Raises:
        UserError: as ``check_free``.
    """
    check_free(path, overwrite=overwrite)
    if path.exists():
        shutil.rmtree(path)
    run = RunFolder(path)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    write_json(run.config, to_dict(config))
    return run


def reopen(path: Path, config: Config) -> RunFolder:
    """A run to go on with.

    Raises:
        UserError: no run there, or settings that would change what it computes.
    """
    run = open_run(path)
    changed = {
        name: values
        for name, values in differences(absolute_paths(load(run.config)), config).items()
        if name not in OPERATIONAL
    }
    if (recipe := load(run.config).recipe) != config.recipe:
        changed["recipe"] = (recipe, config.recipe)
    if changed:
        listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        raise UserError(f"{path} cannot be resumed with other settings ({listed}); start a new run instead")
    return run


def threads_of(path: Path) -> int | None:
    """How many threads a run computed with so far; None where that does not matter (GPUs), or there is no run."""
    run = RunFolder(path)
    return load(run.config).run.threads if run.config.is_file() else None


class MetricsLog:
    """Appends events to ``metrics.jsonl``, a line each, and scalars to TensorBoard.

    A resumed run first drops the lines after its checkpoint, so that every step stands there once.
    """

    def __init__(self, run: RunFolder, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _drop_after(run.metrics, from_step)
        self._file = run.metrics.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run.tensorboard), purge_step=from_step if from_step else None)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()

    def write(self, event: str, step: int, values: dict[str, Any]) -> None:
        """One event; numbers among the values become TensorBoard scalars ``event/name``."""
        self._file.write(json.dumps({"event": event, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)) and name not in ("epoch", "seconds"):
                self._board.add_scalar(f"{event}/{name}", value, step)


def _drop_after(path: Path, step: int) -> None:
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue  # the line that a kill cut short
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
