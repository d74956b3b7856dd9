"""The compared ways: what each trains with a seed, and which evaluation of which run its figures are.

Runs that are there already are not repeated, and those that were cut short go on, so a sweep can be stopped at any time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastlift
from fastlift import recipes
from fastlift.system.progress import Ui

LAST = 5  # epochs of a soup of epochs
SOUP_OF = 3  # runs of a soup of runs
_APART = 100  # between the seeds of these runs
# As a user without a validation split of the papers' would: a fifth of each class's images.
HELD_OUT = {"val_share": 0.2}


@dataclass(frozen=True)
class Measured:
    """A run, and one of its evaluations: "" for the one that its results begin with."""

    run: Path
    evaluation: str = ""

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures."""
        results = json.loads((self.run / "results.json").read_text(encoding="utf-8"))
        found: dict[str, Any] = results["evaluations"][self.evaluation] if self.evaluation else results["metrics"]
        return found


@dataclass(frozen=True)
class Sweep:
    """Where the runs of a data set are kept, and what all of them have in common.

    Attributes:
        common: settings of all runs: the data set, the model, ``threads`` ...
    """

    folder: Path
    common: dict[str, Any]
    ui: Ui

    def trained(self, key: str, recipe: str, seed: int, **settings: Any) -> Path:
        """The run of a recipe with changes."""
        run = self.folder / f"{key}-seed{seed}"
        if not (run / "results.json").is_file():
            self.ui.say(f"{key}, seed {seed}")
            dataset = self.common.get("dataset")
            rest = {name: value for name, value in self.common.items() if name != "dataset"}
            config = recipes.build(recipe, dataset, **rest | settings, seed=seed, amp="fp32")
            fastlift.train(config, output=run, resume="auto", ui=self.ui)
        return run

    def lift(self, seed: int) -> Path:
        """LIFT itself, which several ways share."""
        return self.trained("lift", "lift", seed)

    def soup(self, key: str, runs: list[Path], **how: Any) -> Path:
        """A soup of runs."""
        output = self.folder / key
        if not (output / "results.json").is_file():
            self.ui.say(key)
            fastlift.soup(runs, output=output, overwrite=output.exists(), ui=self.ui, **how)
        return output


@dataclass(frozen=True)
class Way:
    """A row of the table."""

    title: str
    key: str
    of: Callable[[Sweep, int], Measured]


def _recipe(title: str, key: str, recipe: str, **settings: Any) -> Way:
    return Way(title, key, lambda sweep, seed: Measured(sweep.trained(key, recipe, seed, **settings)))


def _raw_of_ema(sweep: Sweep, seed: int) -> Measured:
    return Measured(sweep.trained("lift_ema", "lift", seed, ema=0.99), "center (raw)")


def _soup_of_epochs(sweep: Sweep, seed: int) -> Measured:
    return Measured(sweep.soup(f"soup_epochs-seed{seed}", [sweep.lift(seed)], last=LAST))


def _soup_of_runs(sweep: Sweep, seed: int) -> Measured:
    """Of runs with other orders and crops that begin alike: tuners that start at random do not average."""
    start = sweep.trained("start", "lift", seed, epochs=0)
    seeds = [seed + _APART * number for number in range(SOUP_OF)]
    runs = [sweep.trained("from_one_start", "lift", one, init_from=str(start)) for one in seeds]
    return Measured(sweep.soup(f"soup_runs-seed{seed}", runs))


def _calibrated(by: str) -> Callable[[Sweep, int], Measured]:
    def of(sweep: Sweep, seed: int) -> Measured:
        """A copy of the run for each goal, since a run holds one calibration."""
        run = sweep.trained(f"held_out_{by}", "lift", seed, **HELD_OUT)
        if "center (calibrated)" not in json.loads((run / "results.json").read_text(encoding="utf-8"))["evaluations"]:
            fastlift.calibrate_run(run, settings={"by": by, "missing_classes": "skip"}, ui=sweep.ui)
            fastlift.evaluate_run(run, calibrated=True, ui=sweep.ui)
        return Measured(run, "center (calibrated)")

    return of


WAYS = (
    _recipe("LIFT", "lift", "lift"),
    _recipe("LIFT+", "lift_plus", "lift_plus"),
    _recipe("LIFT, EMA 0.99: averaged weights", "lift_ema", "lift", ema=0.99),
    Way("the same runs: raw weights", "lift_ema_raw", _raw_of_ema),
    _recipe("LIFT, AdamW 1e-3", "lift_adamw", "lift", optimizer="adamw", lr=1e-3, weight_decay=1e-2),
    Way(f"LIFT, soup of its last {LAST} epochs", "soup_epochs", _soup_of_epochs),
    Way(f"LIFT, soup of {SOUP_OF} runs from one start", "soup_runs", _soup_of_runs),
    _recipe("full fine-tuning, SGD 0.001", "full", "full_finetune", lr=0.001),
    _recipe("LT-Soups", "lt_soups", "lt_soups"),
    _recipe("LT-Soups of LIFT's tuner", "lt_soups_lift", "lt_soups", tuner="adaptformer"),
    _recipe("LIFT on four fifths of the images", "held_out_log_loss", "lift", **HELD_OUT),
    Way("the same, strength by log loss", "calibrated_loss", _calibrated("log_loss")),
    Way("the same, strength by class mean", "calibrated_mean", _calibrated("mean_class_accuracy")),
)


def study_ways() -> tuple[Way, ...]:
    """Of the study of head-to-tail ratios: the ways that the paper compares."""
    return tuple(way for way in WAYS if way.key in ("lift", "full", "lt_soups"))
