"""A run is a folder of plain files, written atomically and read without fastlift.

``config.json`` settings; ``run.json`` which run it is; ``data.json`` classes, counts and fingerprints; ``metrics.jsonl``
one JSON object a line; ``tensorboard/``; ``checkpoints/*.safetensors``; ``results.json`` and ``report.html`` once it has
ended. Hidden files are fastlift's own: ``.lock`` (see ``claims.py``), drafts of files that are being written
(``files.py``), and the old run while a new one takes its place (``replacing.py``).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from fastlift.config import Config, absolute_paths, differences, load, marked, may_change, to_dict
from fastlift.errors import UserError
from fastlift.evaluation.validation import ValidationSettings
from fastlift.runs import checkpoints
from fastlift.runs.best import usable_best
from fastlift.runs.events import evaluations
from fastlift.runs.identity import Identity, load_identity, settings_digest, store_identity
from fastlift.runs.names import SEEDS, folder_of_stages, resumed_as
from fastlift.runs.replacing import ASIDE, DISCARDED, GIVEN, LOCK, replace_contents
from fastlift.runs.stored import read_data
from fastlift.runs.train_state import Schedule
from fastlift.settings import May
from fastlift.system import launcher
from fastlift.system.files import PART, write_json


class _In:
    """A path in a run's folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: RunFolder, kind: object = None) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and what is read from them."""

    path: Path
    config = _In("config.json")
    identity_file = _In("run.json")
    data = _In("data.json")
    metrics = _In("metrics.jsonl")
    results = _In("results.json")
    checkpoints = _In("checkpoints")
    tensorboard = _In("tensorboard")
    report = _In("report.html")
    profile = _In("profile.json")
    bad_images = _In("bad_images.txt")
    splits = _In("splits")
    soup = _In("soup.json")

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels.

        Raises:
            UserError: the run stopped before it knew them, or ``data.json`` cannot be read.
        """
        if not self.data.is_file():
            raise UserError(
                f"{self.path} has no data.json: the run stopped before its model was built; {way_on(self.path)}"
            )
        names = read_data(self.data).get("class_names")
        if names is None:
            raise UserError(f"{self.data} has no class_names: it was changed or damaged")
        return tuple(names)

    def has_ended(self) -> bool:
        """Whether it has results."""
        return self.results.is_file()

    def identity(self) -> Identity | None:
        """Which run this is; None where nothing tells it: ``run.json`` is missing or damaged, and there is no checkpoint.

        Raises:
            UserError: nothing but checkpoints of several runs tells it.
        """
        known = load_identity(self.identity_file)
        if known is not None:
            return known
        told = checkpoints.identities(self.checkpoints)
        if len(told) > 1:
            files = "; ".join(f"{', '.join(path.name for path in paths)} of one" for paths in told.values())
            raise UserError(
                f"{self.identity_file} is missing or damaged, and the checkpoints beside it are of {len(told)} runs "
                f"({files}): move those that are not this run's elsewhere"
            )
        return next(iter(told), None)

    def last_checkpoint(
        self, say: Callable[[str], None] = lambda _: None, schedule: Schedule | None = None
    ) -> Path | None:
        """The last checkpoint that is whole and this run's own; None where nothing was trained.

        Args:
            say: told which newer ones were passed over, and why.
            schedule: how long the run is, to pass over what is no place in it.

        Raises:
            UserError: there are checkpoints, but none that can be used; the message tells the way on.
        """
        path, reasons = checkpoints.newest(self.checkpoints, self.identity(), schedule)
        if path is None and reasons:
            again = f"{launcher.command()} train --config {self.config} --output {self.path} --overwrite"
            raise UserError(
                f"no checkpoint of {self.path} can be used: {'; '.join(reasons)}. Put back a copy of one of them, or start "
                f"again with: {again}",
                exit_code=1,
            )
        for reason in reasons:
            say(f"passed over: {reason}; {path.name if path else ''} is used instead")
        return path

    def find_checkpoint(self, name: str | None, say: Callable[[str], None] = lambda _: None) -> Path | None:
        """A checkpoint: ``best``, ``last``, how many epochs it was trained for (``3``), its name (``epoch-003``) or path.

        By default the best on the validation split where that was evaluated while the run trained (``--eval-every``), else
        the last. None where nothing was trained.

        Raises:
            UserError: no such checkpoint; the message lists those that are there. Or as ``last_checkpoint``.
        """
        if (name is None or name == "best") and (best := self.best_checkpoint(say)) is not None:
            return best
        if name == "best":
            raise UserError(
                f"{self.path} has no best checkpoint: no validation split was evaluated while it trained (--eval-every)"
            )
        if name is None or name == "last":
            return self.last_checkpoint(say)
        files = [Path(name), self.checkpoints / name, self.checkpoints / f"{name}.safetensors"]
        if name.isascii() and name.isdecimal():
            files.append(checkpoints.epoch_path(self.checkpoints, int(name)))
        for path in files:
            if path.is_file():
                return path
        there = ", ".join(path.stem for path in checkpoints.saved(self.checkpoints)) or "none"
        raise UserError(f"{self.path} has no checkpoint {name!r}; there are: {there}")

    def best_checkpoint(self, say: Callable[[str], None] = lambda _: None) -> Path | None:
        """The best checkpoint on the validation split that is whole; None where that was not evaluated.

        Raises:
            UserError: not one of those that were evaluated can be used.
        """
        settings = load(self.config).part(ValidationSettings)
        found = [] if settings.eval_every is None else evaluations(self.metrics, "val")
        return usable_best(self.checkpoints, found, settings, self.identity(), say)


class State(Enum):
    """What a run folder holds, by the files that are there.

    ``way_on`` tells what to do in each; so does docs/reading_a_run.md.
    """

    FREE = "no run yet: nothing is there, or only what a kill left before config.json was written"
    FOREIGN = "not a run folder: it has no config.json"
    REPLACED = "a run that --overwrite was replacing when it was cut short"
    BEGUN = "a run without a checkpoint yet"
    UNKEPT = "a run that was to start from a given checkpoint, and was cut short before it kept that"
    TRAINED = "a run with checkpoints, without results"
    EVALUATED = "a run with results, without its page"
    ENDED = "a run that has ended"


def state(path: Path) -> State:
    """What is in a folder; looks at names alone, since whoever reads a file tells about its damage.

    Raises:
        OSError: a file, or a folder that cannot be listed.
    """
    run = RunFolder(path)
    try:
        names = set(os.listdir(path))
    except FileNotFoundError:
        return State.FREE
    if ASIDE in names:
        return State.REPLACED
    if run.config.name not in names:
        ours = {name for name in names if name in (LOCK, DISCARDED, GIVEN) or PART.fullmatch(name)}
        return State.FREE if names == ours else State.FOREIGN
    if run.results.name in names:
        return State.ENDED if run.report.name in names else State.EVALUATED
    if list(run.checkpoints.glob("*.safetensors")):
        return State.TRAINED
    return State.UNKEPT if GIVEN in names else State.BEGUN


def way_on(path: Path) -> str:
    """What to do next with a folder, as a sentence."""
    named, train = shlex.quote(str(path)), f"{launcher.command()} train"
    found, whole = state(path), resumed_as(path)
    if whole != path and found not in (State.EVALUATED, State.ENDED):
        after = "stages" if folder_of_stages(path) is not None else "seeds"
        return f"it goes on, and the {after} after it, with: {train} --resume --output {shlex.quote(str(whole))}"
    return {
        State.FREE: f"start a run in it: {train} --output {named}",
        State.FOREIGN: "choose another folder, or restore its config.json",
        State.REPLACED: f"the old run comes back with: {train} --resume --output {named}",
        State.BEGUN: f"it starts from the beginning with: {train} --resume --output {named}",
        State.UNKEPT: f"start it again: fastlift import-lift CHECKPOINT (or soup RUN RUN) --overwrite --output {named} ...",
        State.TRAINED: f"it goes on with: {train} --resume --output {named}",
        State.EVALUATED: f"its page is written by: fastlift report {named}",
        State.ENDED: f"see {path / 'results.json'}",
    }[found]


def standing(path: Path) -> str:
    """What a folder holds, the last checkpoint by its name, and what to do next with it, as a sentence."""
    found, last = state(path).value, checkpoints.saved(RunFolder(path).checkpoints)
    return f"{path} holds {found}{f' (the last: {last[-1].name})' if last else ''}; {way_on(path)}"


def open_run(path: Path) -> RunFolder:
    """An existing run; a folder that is none is refused."""
    run = RunFolder(path)
    if not run.config.is_file():
        what = "there is no such folder" if not path.exists() else "it has no config.json"
        if (path / SEEDS).is_file():
            what = "it holds runs of several seeds: name one of them, such as its first"
        raise UserError(f"{path} is not a run folder: {what}")
    return run


def holds_run(path: Path) -> bool:
    """Whether there is a run to go on with: False where a new one can be made.

    Raises:
        UserError: something else is there.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} exists and is a file; choose another --output")
    if (found := state(path)) is State.FOREIGN:
        raise UserError(f"{path} is not a run folder: it has no config.json; choose another --output")
    return found is not State.FREE


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder that exists where overwriting was not asked for, and one that is no run, which is never deleted."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} exists and is a file; choose another --output")
    found = state(path)
    if found is State.FREE:
        return
    if not overwrite:
        raise UserError(
            f"{path} exists; use --resume to go on with it (--resume auto where a command is repeated), --overwrite to start "
            "again, or another --output"
        )
    if found is State.FOREIGN:
        raise UserError(f"{path} is not a run folder (no config.json), so --overwrite leaves it alone")


def create(path: Path, config: Config, *, overwrite: bool, given_start: bool = False) -> RunFolder:
    """A new run in a folder that this process has claimed, in place of an old run where overwriting was asked for.

    Args:
        given_start: what trains starts from values that the config does not tell: noted until ``start_is_kept``, so that no
            process goes on without them.

    Raises:
        UserError: as ``check_free``.
        OSError: the folder cannot be written; an old run is as it was.
    """
    check_free(path, overwrite=overwrite)
    run = RunFolder(path)

    def write_config() -> None:
        (path / GIVEN).touch() if given_start else (path / GIVEN).unlink(missing_ok=True)
        write_json(run.config, to_dict(config), parents=False)

    if state(path) is State.FREE:
        write_config()
    else:
        replace_contents(path, write_config)
    run.checkpoints.mkdir(exist_ok=True)
    return run


def start_is_kept(run: RunFolder) -> None:
    """There is a checkpoint of the values that the run was given."""
    (run.path / GIVEN).unlink(missing_ok=True)


def identify(run: RunFolder, config: Config, dtype: str, *, is_main: bool) -> Identity:
    """Which run this is; the first process writes it to ``run.json`` where that is missing or damaged.

    Raises:
        UserError: as ``RunFolder.identity``; or settings other than those that the run was made with.
    """
    identity = run.identity()
    check_settings(run, identity, config)
    identity = identity or Identity.new(config, dtype)
    if is_main and load_identity(run.identity_file) is None:
        store_identity(run.identity_file, identity)
    return identity


def check_settings(run: RunFolder, identity: Identity | None, config: Config) -> None:
    """Refuse settings other than those that the run was made with, as far as they change what is computed."""
    if identity is not None and identity.settings != settings_digest(config):
        raise UserError(
            f"{run.config} was changed or damaged since the run was made: other settings would compute something else. "
            "Put them back, or start a new run with them"
        )


def reopen(path: Path, config: Config) -> None:
    """Make a run ready to go on with.

    Raises:
        UserError: no run there, or settings that would change what it computes.
    """
    run, free = open_run(path), may_change(config)
    before = absolute_paths(load(run.config))
    differing = differences(before, config)
    free |= {name for name in marked(May.GROW) & differing.keys() if 0 < differing[name][0] < differing[name][1]}
    changed = {name: values for name, values in differing.items() if name not in free}
    if before.recipe != config.recipe:
        changed["recipe"] = (before.recipe, config.recipe)
    if changed:
        listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        raise UserError(f"{path} cannot be resumed with other settings ({listed}); start a new run instead")
    run.checkpoints.mkdir(exist_ok=True)  # ``create`` may have been cut short
    if state(path) is State.TRAINED:
        start_is_kept(run)  # which a kill after the first checkpoint left unsaid


def amp_of(path: Path, asked: str) -> str:
    """The dtype that was asked for; for ``auto`` the one that the run trains in: measured anew, it might be another."""
    identity = RunFolder(path).identity() if asked == "auto" else None
    return asked if identity is None else identity.dtype


def threads_of(path: Path) -> int | None:
    """How many threads a run computed with so far; None where that does not matter (GPUs), or there is no run."""
    run = RunFolder(path)
    return load(run.config).run.threads if run.config.is_file() else None
