"""A run that is the average of what other runs have trained: made, evaluated and reported like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from fastlift.config import Config, DataConfig
from fastlift.data.datasets.catalogue import PYTHON
from fastlift.data.datasets.dataset import DataSet
from fastlift.engine.agreement import join
from fastlift.engine.build import load_data
from fastlift.engine.evaluate import evaluate_on
from fastlift.engine.model import load_run
from fastlift.engine.processes import company
from fastlift.engine.train import Run, train
from fastlift.engine.validation import validation_split
from fastlift.errors import UserError
from fastlift.evaluation.validation import BestBy, ValidationSettings
from fastlift.reporting.notebook import ui_for
from fastlift.runs import folder as runs
from fastlift.runs.given_state import GivenState
from fastlift.runs.names import default_path
from fastlift.runs.split_lists import data_of_run
from fastlift.runs.stored import read_data
from fastlift.soups.averaging import Average, normalised
from fastlift.soups.greedy import Greedy, check_validation, greedy
from fastlift.soups.ingredients import Ingredient, gather
from fastlift.system.progress import Quiet, Ui
from fastlift.training.distributed import World


def soup(
    folders: Sequence[str | Path],
    *,
    checkpoints: Sequence[str] = (),
    last: int | None = None,
    weights: Sequence[float] = (),
    greedy: bool = False,
    best_by: BestBy = "mean_class_accuracy",
    output: str | Path | None = None,
    overwrite: bool = False,
    dataset: DataSet | None = None,
    settings: dict[str, Any] | None = None,
    ui: Ui | Literal["auto"] | None = "auto",
) -> Run:
    """Average what several runs of one model have trained, or one run at several epochs, into a run of its own.

    The run folder is evaluated on the test split of the first run, and is then like any other of 0 epochs. What it is made of is
    kept in its ``soup.json`` and in its results.

    Args:
        folders: runs that have ended.
        checkpoints: of each run these; default: the one that it was tested with.
        last: of each run the states after its last so many epochs, in place of ``checkpoints``.
        weights: one for each checkpoint, in the order of runs and, within a run, of its checkpoints; they are made to sum to 1. By
            default all are equal.
        greedy: keep a checkpoint only where the average's figure on the validation split does not fall.
        best_by: that figure.
        output: the run folder; default ``runs/DATASET-RECIPE-soup-TIME``.
        overwrite: replace the run in ``output``.
        dataset: the data set of runs whose data came from Python, made again.
        settings: changes to the settings of the first run, which the soup has: ``data_root``, ``device``, ``threads`` ...
        ui: where progress is told; see ``fastlift.train``.

    Raises:
        UserError: checkpoints that do not average, weights that are none, or no validation split where one is needed.

    Source: Wortsman et al., "Model soups", ICML 2022.
    """
    if greedy and len(weights):
        raise UserError("--greedy and --weights: a greedy soup has equal weights; choose one of them")
    if not greedy and best_by != ValidationSettings().best_by:
        raise UserError(f"best_by {best_by} would change nothing here: it is the figure of --greedy")
    ingredients = gather(folders, checkpoints, last)
    shares = normalised(weights, len(ingredients))
    config = _config(ingredients[0], settings or {})
    path = Path(output) if output is not None else default_path(config.data.dataset, f"{config.recipe}-soup")
    if output is not None:
        runs.check_free(path, overwrite=overwrite)
        _check_outside(path, ingredients)
    with company() as world:
        told = ui_for(ui) if world.is_main else Quiet()
        if output is None and world.size > 1:
            raise UserError("several processes need a folder: --output")
        data = dataset or _from_python(ingredients[0].run, config.data, told, world)
        _tell_doubts(ingredients, told)
        if greedy:
            chosen = ValidationSettings(best_by=best_by)
            found = _greedy(ingredients, config, chosen, data, told, world)
            given = _given(ingredients, *_of_greedy(ingredients, found, chosen))
        else:
            average = Average()
            for one, share in zip(ingredients, weights or [1.0] * len(ingredients), strict=True):
                average = average.added(one.trained(), share)
            made = {"how": "weighted" if len(weights) else "uniform"}
            given = _given(
                ingredients, average, made, [one.told(share) for one, share in zip(ingredients, shares, strict=True)]
            )
        return train(config, dataset=data, output=path, overwrite=overwrite, start=given, ui=ui)


class _Bars(Quiet):
    """Shows how far each of many evaluations is, and leaves out what each would say again."""

    def __init__(self, ui: Ui) -> None:
        self.bar = ui.bar  # type: ignore[method-assign,assignment]


def _config(first: Ingredient, settings: Mapping[str, Any]) -> Config:
    """The settings of the first run, as one that trains nothing: what has no meaning then is as by default."""
    config = first.config.merged(epochs=0, amp=first.identity.dtype)
    config = config.merged(**{name: Config().flat()[name] for name in config.idle()})
    return config.override(**settings)


def _check_outside(path: Path, ingredients: Sequence[Ingredient]) -> None:
    """Refuse to make a soup in the place of one of its runs: ``--overwrite`` would delete that."""
    for one in ingredients:
        if path.resolve() in (one.run.path.resolve(), *one.run.path.resolve().parents):
            raise UserError(f"--output {path} is, or holds, a run of this soup ({one.run.path}): choose another folder")


def _from_python(first: runs.RunFolder, settings: DataConfig, ui: Ui, world: World) -> DataSet | None:
    """The data set of runs of files that came from Python, by the lists that the first one keeps; None for all others."""
    if settings.dataset != PYTHON:
        return None
    return replace(load_data(data_of_run(first, settings), ui, world), settings=None)


def _tell_doubts(ingredients: Sequence[Ingredient], ui: Ui) -> None:
    """What nobody can refuse, and a reader should know."""
    first = ingredients[0]
    tests = [read_data(one.run.data).get("fingerprints", {}).get("test") for one in ingredients]
    if others := sorted({one.label for one, test in zip(ingredients, tests, strict=True) if test != tests[0]}):
        ui.say(
            f"{', '.join(others)}: tested on other images than {first.label}, on whose test split the soup is evaluated; see to it that "
            "none was trained on these"
        )
    seeds = {one.config.run.seed for one in ingredients}
    if len(seeds) > 1 and any(one.config.training.init_from is None for one in ingredients) and _starts_random(first):
        ui.say(
            f"these runs began with other random values ({', '.join(first.config.model.tuner)}, seeds "
            f"{', '.join(map(str, sorted(seeds)))}): their hidden units do not correspond, so that an average loses part of what "
            "they learned (docs/soups.md): let such runs start from one (--init-from), or choose by --greedy"
        )


def _starts_random(one: Ingredient) -> bool:
    """Whether a tuner has values that its seed draws: bottlenecks and prompts; the others start at the frozen model."""
    return any(name.endswith(("down_proj.weight", "lora_A", ".prompt", "head.context")) for name in one.shapes)


def _given(
    ingredients: Sequence[Ingredient], average: Average, made: dict[str, Any], told: list[dict[str, Any]]
) -> GivenState:
    state = ingredients[0].train_state
    return GivenState(average.state(), state.classes, state.backbone, {**made, "ingredients": told})


def _of_greedy(
    ingredients: Sequence[Ingredient], found: Greedy, settings: ValidationSettings
) -> tuple[Average, dict[str, Any], list[dict[str, Any]]]:
    by = settings.best_by
    made = {"how": "greedy", "best_by": by, "validation": found.soup[by]}
    told = [
        {**one.told(1 / len(found.kept) if place in found.kept else 0.0), "validation": found.figures[place][by]}
        for place, one in enumerate(ingredients)
    ]
    return found.average, made, told


def _greedy(
    ingredients: Sequence[Ingredient],
    config: Config,
    settings: ValidationSettings,
    given: DataSet | None,
    ui: Ui,
    world: World,
) -> Greedy:
    """Evaluate on the validation split of the first run."""
    device = join(world, config)
    data = load_data(data_of_run(ingredients[0].run, config.data), Quiet(), world, given)
    index = validation_split(data, "--greedy")
    check_validation(data, ingredients, ui.say)

    def evaluate(state: Mapping[str, Tensor]) -> dict[str, Any]:
        model = load_run(
            ingredients[0].run.path, str(ingredients[0].path), None
        )  # anew: it is cast, compiled and moved
        model.load_trained(dict(state), "the soup")
        return evaluate_on(model, index, data.group_counts.tolist(), config, device, world, _Bars(ui)).metrics.summary()

    return greedy([one.trained for one in ingredients], evaluate, settings, [one.label for one in ingredients], ui.say)
