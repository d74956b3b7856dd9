"""What trains starts from what another run has learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastlift.config import load
from fastlift.engine.agreement import first_says
from fastlift.engine.opening import Asked, Place
from fastlift.errors import UserError
from fastlift.models.classifiers import WeightClassifier
from fastlift.models.lift import LiftModel
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.stored import read_results
from fastlift.runs.train_state import names_digest
from fastlift.training.class_shards import ShardedClassifier

_NAMED = 10  # classes in a message


@dataclass(frozen=True)
class WarmStart:
    """What another run has learned, in the model already.

    Attributes:
        rows: where the runs' classes differ: ``head.NAME`` -> rows [R, ...] of the classes that both have, and their places
            [R] in the weight as this process holds it. None where the classes are the same, and all of it was taken.
    """

    rows: dict[str, tuple[Tensor, Tensor]] | None = None

    def take_rows(self, model: LiftModel) -> None:
        """Give the classifier these rows; again, where the whole of it was initialised since."""
        with torch.no_grad():
            for name, (rows, places) in (self.rows or {}).items():
                model.trained()[name][places] = rows


def start_warm(asked: Asked, place: Place, model: LiftModel) -> WarmStart | None:
    """Give ``model`` what the run of ``--init-from`` has learned; None where nothing is given. Every process reads the checkpoint.

    Where that run has other classes, the rows of the classifier are taken for classes of the same name. A run that goes on
    from a checkpoint of its own needs it no more.

    Raises:
        UserError: no such run or checkpoint, or one of another backbone, or another model; nothing that fits.
    """
    if asked.config.training.soup_factors and asked.start is None and not _has_begun(asked, place):
        raise UserError("soup_factors: such a run is made in stages, by fastlift.train")
    source = asked.config.training.init_from
    if source is None or not asked.config.training.epochs or _has_begun(asked, place):
        return None
    if asked.start is not None:
        raise UserError("--init-from and a given start: what trains can start from one of them alone")
    file = Path(source)
    if file.is_file() and (file.suffix != ".safetensors" or file.parent.name != runs.RunFolder(file).checkpoints.name):
        raise UserError(
            f"--init-from {source}: no checkpoint of a run: give the run folder, or a file of its checkpoints/"
        )
    run = runs.open_run(file.parent.parent if file.is_file() else file)
    path = file if file.is_file() else run.find_checkpoint(None, place.ui.say)
    if path is None:
        raise UserError(f"--init-from {source}: that run has no checkpoint to start from")
    found = checkpoints.read(path, run.identity())
    trained, state = found.weights(), found.state
    if state.backbone != model.backbone_fingerprint:
        raise UserError(f"--init-from {source}: that run has other backbone weights ({load(run.config).model.model})")
    warm, taken = WarmStart(), ""
    if state.classes != names_digest(model.class_names):
        trained, warm, taken = _for_these_classes(trained, run, state.classes, model, asked.config.model.init)
    elif isinstance(model.classifier, ShardedClassifier):
        trained = model.classifier.cut(trained, str(path))
    try:
        model.load_trained(trained, f"--init-from {path}")
    except UserError as error:
        differ = _other_settings(asked, run, model)
        raise UserError(f"--init-from {source}: {differ}" if differ else str(error)) from None
    warm.take_rows(model)
    place.ui.say(f"what trains starts from {path.stem} of {run.path}{taken}")
    return warm


def _for_these_classes(
    trained: dict[str, Tensor], run: runs.RunFolder, digest: str, model: LiftModel, init: str
) -> tuple[dict[str, Tensor], WarmStart, str]:
    """Of a run with other classes: its state with this model's classifier in it, the rows for it, and what is taken, in words."""
    theirs, mine, head = run.class_names(), model.class_names, model.classifier
    if digest != names_digest(theirs):
        raise UserError(f"{run.data} was changed or damaged: its class names are not those that the run trained on")
    if not isinstance(head, WeightClassifier | ShardedClassifier):
        return trained, WarmStart(), f": tuner and text side; its {len(theirs):,} classes are others than these"
    places = {name: place for place, name in enumerate(theirs)}
    shared = [name for name in mine if name in places]
    first = head.first if isinstance(head, ShardedClassifier) else 0
    here = {name: row for row, name in enumerate(mine[first : first + len(head.weight)]) if name in places}
    own = {f"head.{name}": parameter for name, parameter in model.head_parameters.items()}
    if not shared and trained.keys() <= own.keys():
        raise UserError(
            f"--init-from {run.path}: that run has no tuner, and no class of the same name: nothing to take"
        )
    wanted = torch.tensor([places[name] for name in here], dtype=torch.int64)
    at = torch.tensor(list(here.values()), dtype=torch.int64, device=head.weight.device)
    rows = {
        name: (trained[name][wanted].to(parameter), at)
        for name, parameter in own.items()
        if name in trained and trained[name].shape[1:] == parameter.shape[1:]
    }
    kept = {name: own[name].detach() if name in rows else tensor for name, tensor in trained.items()}
    named = ", ".join(shared[:_NAMED]) + (", ..." if len(shared) > _NAMED else "")
    told = f"its classifier's rows of {len(shared):,} of these {len(mine):,} classes, by their names"
    told += f" ({named})" if shared else ""
    told += f"; the others start anew (init {init})" if len(shared) < len(mine) else ""
    return kept, WarmStart(rows), f": {'' if trained.keys() <= own.keys() else 'its tuner, and '}{told}"


def _has_begun(asked: Asked, place: Place) -> bool:
    """Whether the run goes on from a checkpoint."""
    folder = runs.RunFolder(asked.path).checkpoints
    return bool(first_says(place.world, lambda: "yes" if asked.resume and checkpoints.saved(folder) else ""))


def _other_settings(asked: Asked, run: runs.RunFolder, model: LiftModel) -> str:
    """The settings of the model that differ, in words; empty where none does."""
    theirs, mine = load(run.config).model.values(), asked.config.model.values()
    by_classes = mine["rank"] is None and theirs["rank"] is None  # so many each
    if run.has_ended():  # its results have the rank that there was
        theirs["rank"] = theirs["rank"] or read_results(run.results).get("model", {}).get("rank")
        mine["rank"] = mine["rank"] or model.tuner_settings.rank
    differ = [f"{name} {_told(theirs[name])}, here {_told(mine[name])}" for name in mine if theirs[name] != mine[name]]
    told = f"the models differ: that run has {'; '.join(differ)}" if differ else ""
    is_alike = run.has_ended() and theirs["rank"] == mine["rank"]
    if not by_classes or is_alike or len(run.class_names()) == len(model.class_names):
        return told
    rank = theirs["rank"] or "N, that of the other run"
    return f"{told or 'the models differ'}; without --rank it follows the number of classes: give --rank {rank}"


def _told(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
