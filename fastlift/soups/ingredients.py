"""The checkpoints that a soup is made of: read from runs that have ended, and refused where they do not average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from fastlift.config import SECTION_OF, SECTIONS, Config, differences, load, may_change, names_file
from fastlift.errors import UserError
from fastlift.evaluation.metrics import Metrics
from fastlift.models.classifiers import OF_TEXT
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.identity import Identity
from fastlift.runs.stored import read_data, read_results
from fastlift.runs.train_state import TrainState
from fastlift.settings import NamesPlace, marker
from fastlift.system import sealed

_NAMED = 3  # classes in a message


@dataclass(frozen=True)
class Ingredient:
    """A checkpoint of a run that has ended.

    Attributes:
        label: what it is called: the run's folder, and the checkpoint where there are several of one run.
        digest: of the checkpoint's file.
        shapes: of its tensors, by name.
        masks: its tensors of whole numbers: which weights its values stand for.
        settings: those that are not the same for all ingredients.
    """

    label: str
    run: runs.RunFolder
    config: Config
    identity: Identity
    path: Path
    digest: str
    train_state: TrainState
    class_names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    masks: dict[str, Tensor]
    settings: dict[str, Any]

    def trained(self) -> dict[str, Tensor]:
        """The values that the run hands out, read from the file.

        Raises:
            UserError: it is another one, or damaged, since it was looked at.
        """
        if sealed.read_metadata(self.path)[sealed.DIGEST] != self.digest:
            raise UserError(f"{self.path} has changed meanwhile")
        return checkpoints.read(self.path, self.identity).weights()

    def told(self, weight: float) -> dict[str, Any]:
        """What a soup keeps of it; its figures are those of its own run, where that evaluated this checkpoint."""
        results = read_results(self.run.results)
        own = results.get("checkpoint", {}).get("name") or checkpoints.epoch_path(self.run.path, results["epochs"]).stem
        name = self.config.run.ensembling_name + ("" if own == self.path.stem else f"@{self.path.stem}")
        metrics = results.get("evaluations", {}).get(name)
        figures = None if metrics is None else Metrics.from_dict(metrics).summary()
        return {
            "name": self.label,
            "run": self.identity.run,
            "checkpoint": self.path.stem,
            "digest": self.digest,
            "weight": weight,
            "settings": self.settings,
            "test": read_data(self.run.data).get("fingerprints", {}).get("test"),
            "figures": figures,
        }


def gather(folders: Sequence[str | Path], names: Sequence[str] = (), last: int | None = None) -> list[Ingredient]:
    """The checkpoints that are asked for, in their order, once they are known to average.

    Args:
        names: of each run these checkpoints: as ``find_checkpoint`` takes them; none for the one that the run was tested with.
        last: of each run the states after its last so many epochs, in place of ``names``.

    Raises:
        UserError: a run that has not ended; no such checkpoint; a single one; or ones of other backbone weights, classes, tuners,
            shapes, classifiers or preprocessing than the first.
    """
    if last is not None and names:
        raise UserError("--checkpoint and --last: both say which checkpoints of a run; choose one of them")
    found = [_ingredient(run, path) for folder in folders for run, path in _chosen(Path(folder), names, last)]
    if len(found) < 2:
        raise UserError(
            "a soup averages two checkpoints or more: name several runs, or several checkpoints of one (--checkpoint 8 9 10, "
            "--last 3)"
        )
    for other in found[1:]:
        _check_alike(found[0], other)
    labels = _labels(found)
    settings = _differing([one.config for one in found])
    return [
        replace(one, label=label, settings=differ) for one, label, differ in zip(found, labels, settings, strict=True)
    ]


def _chosen(folder: Path, names: Sequence[str], last: int | None) -> list[tuple[runs.RunFolder, Path]]:
    run = runs.open_run(folder)
    if not run.has_ended():
        raise UserError(f"{folder} has not ended, and a soup is made of runs that have; {runs.way_on(folder)}")
    if last is not None:
        epochs = [path for path in checkpoints.saved(run.checkpoints) if path.name.startswith("epoch-")]
        if not 1 <= last <= len(epochs):
            raise UserError(f"--last {last}: {folder} has checkpoints of {len(epochs)} whole epochs")
        return [(run, path) for path in epochs[-last:]]
    paths = [run.find_checkpoint(name) for name in names or (None,)]
    found = [(run, path) for path in paths if path is not None]
    if len(found) < len(paths):
        raise UserError(f"{folder} has no checkpoint: nothing in it was trained")
    return found


def _ingredient(run: runs.RunFolder, path: Path) -> Ingredient:
    config, identity = load(run.config), run.identity()
    runs.check_settings(run, identity, config)
    read = checkpoints.read(path, identity)
    trained, state = read.weights(), read.state
    names = run.class_names()
    return Ingredient(
        label="",
        run=run,
        config=config,
        identity=state.identity,
        path=path,
        digest=sealed.read_metadata(path)[sealed.DIGEST],
        train_state=state,
        class_names=names,
        shapes={name: tuple(tensor.shape) for name, tensor in trained.items()},
        masks={name: tensor for name, tensor in trained.items() if not tensor.is_floating_point()},
        settings={},
    )


def _check_alike(first: Ingredient, other: Ingredient) -> None:
    """Refuse what does not average with the first; the message says in which way it is another."""
    a, b = first.run.path, other.run.path
    if first.train_state.backbone != other.train_state.backbone:
        models = [one.config.model.model for one in (first, other)]
        named = "" if models[0] == models[1] else f" ({models[0]} and {models[1]})"
        raise UserError(f"{b} has other backbone weights than {a}{named}: they have no average")
    if first.class_names != other.class_names:
        raise UserError(
            f"{b} has {_other_classes(first.class_names, other.class_names)} than {a}: they have no average"
        )
    if differ := _other_model(first.config, other.config):
        raise UserError(f"{b} is another model than {a}: {differ}")
    if first.shapes != other.shapes:
        names = sorted(first.shapes.items() ^ other.shapes.items())
        raise UserError(f"{b} trains other tensors than {a}, such as {names[0][0]} {list(names[0][1])}")
    if any(not torch.equal(mask, other.masks[name]) for name, mask in first.masks.items()):
        raise UserError(f"{b} trains other weights than {a}: their masks differ, so their values have no average")


def _other_classes(mine: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    if sorted(mine) == sorted(theirs):
        return "the same classes in another order"
    odd = [name for name in theirs if name not in set(mine)] or [name for name in mine if name not in set(theirs)]
    return f"other classes ({', '.join(odd[:_NAMED])}{', ...' if len(odd) > _NAMED else ''})"


def _other_model(mine: Config, theirs: Config) -> str:
    """The settings of model and preprocessing that differ and act in both; empty where there are none.

    What tensors tell is left to them: sizes that one run leaves to the number of classes, files of weights, where the
    classifier started from.
    """
    told = {"init", "pretrained"} | (set() if mine.model.classifier in OF_TEXT else {"prompt"})
    of_model = {name for name, section in SECTION_OF.items() if section == "model"} | {"interpolation"}
    asked = of_model - told - mine.idle() - theirs.idle()
    differ = {
        name: values
        for name, values in differences(mine, theirs).items()
        if name in asked and None not in values and not any(names_file(name, value) for value in values)
    }
    return "; ".join(f"{name} {_plain(b)}, there {_plain(a)}" for name, (a, b) in differ.items())


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _differing(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Of each the settings that change what is computed and are not the same in all; without places of this machine."""
    names = {name for other in configs[1:] for name in differences(configs[0], other)}
    free = set().union(*(may_change(config) for config in configs))
    kept = [
        name
        for name in configs[0].flat()
        if name in names - free
        and marker(SECTIONS[SECTION_OF[name]], name, NamesPlace) is None
        and not any(names_file(name, config.flat()[name]) for config in configs)
    ]
    return [{name: msgspec.to_builtins(config.flat()[name], enc_hook=str) for name in kept} for config in configs]


def _labels(found: Sequence[Ingredient]) -> list[str]:
    """The folders' names, with as many parents as tell them apart, and the checkpoint where a run has several."""
    folders = [one.run.path.resolve() for one in found]
    depth = next(
        depth
        for depth in range(1, 1 + max(len(folder.parts) for folder in folders))
        if len({folder.parts[-depth:] for folder in folders}) == len(set(folders))
    )
    several = {
        folder
        for folder in folders
        if len({one.path for one, of in zip(found, folders, strict=True) if of == folder}) > 1
    }
    return [
        "/".join(folder.parts[-depth:]) + (f"@{one.path.stem}" if folder in several else "")
        for one, folder in zip(found, folders, strict=True)
    ]
