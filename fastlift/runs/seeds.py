"""A folder with a run for each of several seeds: which seeds these are, noted from the start, and what is to become of old runs.

``seed-0/``, ``seed-1/`` ... are run folders like any other; ``seeds.json`` says which seeds there are to be, with which
settings, and in the end what they gave; ``report.html`` shows them side by side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from fastlift.errors import UserError
from fastlift.runs import folder as runs
from fastlift.runs.names import SEEDS, is_of_a_seed, seed_path
from fastlift.runs.replacing import LOCK
from fastlift.settings import MOST
from fastlift.system.files import PART, read_json, write_json

PAGE = "report.html"
_Seed = Annotated[int, msgspec.Meta(ge=0, le=MOST)]


@dataclass(frozen=True)
class Plan:
    """What ``seeds.json`` says.

    Attributes:
        seeds: of which there are to be runs, in their order.
        config: the settings of the first one, as ``config.json`` has them.
        replaced: of seeds whose old run a new one is to take the place of, which run that is: hex as in ``run.json``, "" where
            nothing tells it.
        figures: mean and spread over the seeds, by figure, and the interval of the mean; empty until all runs have ended.
        runs: the figures of each seed's run; likewise.
    """

    seeds: Annotated[tuple[_Seed, ...], msgspec.Meta(min_length=1)]
    config: dict[str, Any]
    replaced: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write ``seeds.json``, whole or not at all; raises OSError where the folder cannot be written."""
        write_json(folder / SEEDS, msgspec.to_builtins(self), parents=False)

    def is_old(self, folder: Path, seed: int) -> bool:
        """Whether the run of a seed is still the old one, which a new one is to take the place of."""
        path = seed_path(folder, seed)
        if str(seed) not in self.replaced or runs.state(path) is runs.State.FREE:
            return False
        return runs.state(path) is runs.State.REPLACED or _which(path) == self.replaced[str(seed)]


def read_plan(folder: Path) -> Plan | None:
    """What ``seeds.json`` of a folder says; None where there is none.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    file = folder / SEEDS
    if not file.is_file():
        return None
    try:
        return msgspec.convert(read_json(file), Plan)
    except (UserError, msgspec.ValidationError) as error:
        raise UserError(
            f"{file} was changed or damaged ({error}): put back a copy, or delete it and repeat the command with --seeds and "
            "--resume, which goes on with the runs that are there"
        ) from None


def check_folder(folder: Path, *, resume: bool | Literal["auto"], overwrite: bool) -> None:
    """Refuse a folder that runs of several seeds can neither be made in nor go on in.

    Raises:
        UserError: a file, a run or something else is there; or runs of seeds, and neither is asked for.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} exists and is a file; choose another --output")
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    names = {name for name in names if name != LOCK and not PART.fullmatch(name)}
    if "config.json" in names:
        raise UserError(
            f"{folder} holds one run, not runs of several seeds; choose another --output, or leave --seeds out"
        )
    strange = sorted(name for name in names if name not in (SEEDS, PAGE) and not is_of_a_seed(name))
    if strange and SEEDS not in names:
        raise UserError(f"{folder} holds something else ({strange[0]}); choose another --output")
    if resume is True and not names:
        raise UserError(f"{folder} holds no runs of seeds, so there is nothing to go on with: leave --resume out")
    if names and not (resume or overwrite):
        raise UserError(
            f"{folder} exists; use --resume to go on with it (--resume auto where a command is repeated), --overwrite to start "
            "again, or another --output"
        )


def old_runs(folder: Path, seeds: tuple[int, ...]) -> dict[str, str]:
    """The runs that are there, by seed, which new ones are to take the place of.

    Raises:
        UserError: runs of other seeds are there, which would stay beside the new ones; or a folder that is no run.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(names.difference(seed_path(folder, seed).name for seed in seeds))
    if beside := [name for name in others if is_of_a_seed(name)]:
        raise UserError(
            f"--overwrite: {folder} holds {' and '.join(beside)} too, which these seeds would leave there: delete "
            f"{'it' if len(beside) == 1 else 'them'}, or choose another --output"
        )
    there = {seed: seed_path(folder, seed) for seed in seeds}
    return {str(seed): _which(path) for seed, path in there.items() if runs.holds_run(path)}


def planned(known: Plan, seeds: tuple[int, ...], config: Mapping[str, Any]) -> Plan:
    """The plan to go on with: the same seeds, and maybe further ones, in the dtype that was measured.

    Raises:
        UserError: other seeds are asked for.
    """
    if seeds[: len(known.seeds)] != known.seeds:
        raise UserError(
            f"these runs are of the seeds {told_seeds(known.seeds)}, not of {told_seeds(seeds)}: go on with those, or with "
            f"further ones after them (--seed {known.seeds[0]} --seeds {len(known.seeds)} or more)"
        )
    run = dict(config["run"])
    if run["amp"] == "auto":
        run["amp"] = known.config.get("run", {}).get("amp", "auto")
    return Plan(seeds, {**config, "run": run}, known.replaced)


def told_seeds(seeds: tuple[int, ...]) -> str:
    """Seeds for a reader: ``0 to 4``, ``0 and 1``."""
    return f"{seeds[0]} {'and' if len(seeds) == 2 else 'to'} {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def runs_in(folders: list[Path]) -> list[Path]:
    """The folders, with those of several seeds as the runs in them that have begun.

    Raises:
        UserError: a folder of several seeds in which none has begun, or whose ``seeds.json`` is damaged.
    """
    found: list[Path] = []
    for folder in folders:
        plan = read_plan(folder)
        paths = [folder] if plan is None else [seed_path(folder, seed) for seed in plan.seeds]
        begun = paths if plan is None else [path for path in paths if (path / "config.json").is_file()]
        if not begun:
            raise UserError(f"{folder}: none of its runs has begun yet")
        found += begun
    return found


def _which(path: Path) -> str:
    identity = runs.RunFolder(path).identity()
    return "" if identity is None else identity.run
