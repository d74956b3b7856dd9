"""What folders of runs are called: one by itself, and those of several seeds in one folder."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

SEEDS = "seeds.json"  # of a folder with a run for each of several seeds
_STAGES = "stages"  # in the folder of a run that is made in stages
_OF_A_SEED = re.compile(r"seed-\d+")


def default_path(dataset: str, recipe: str) -> Path:
    """A new folder under ``runs/`` that says what and when."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = re.sub(r"[^\w.-]+", "-", dataset.removeprefix("hf://"))
    return Path("runs") / f"{name}-{recipe}-{stamp}"


def seed_path(folder: Path, seed: int) -> Path:
    """The run of a seed in a folder of several."""
    return folder / f"seed-{seed}"


def is_of_a_seed(name: str) -> bool:
    """Whether a run in a folder of several seeds is called so."""
    return _OF_A_SEED.fullmatch(name) is not None


def stage_path(folder: Path, name: str) -> Path:
    """A stage of the run in ``folder``, as a run of its own."""
    return folder / _STAGES / name


def folder_of_stages(run: Path) -> Path | None:
    """The run that another run is a stage of; None where it is none."""
    whole = run.parent.parent
    return whole if run.parent.name == _STAGES and (whole / "config.json").is_file() else None


def folder_of_seeds(run: Path) -> Path | None:
    """The folder of several seeds that a run lies in; None where it lies in none."""
    return run.parent if is_of_a_seed(run.name) and (run.parent / SEEDS).is_file() else None


def resumed_as(run: Path) -> Path:
    """The folder by which a run is resumed: that of the run that it is a stage of, that of all seeds where it is one of several."""
    whole = folder_of_stages(run) or run
    return folder_of_seeds(whole) or whole
