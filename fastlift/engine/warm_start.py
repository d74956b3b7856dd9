"""What trains starts from what another run has learned."""

from __future__ import annotations

from pathlib import Path

from fastlift.config import load
from fastlift.engine.agreement import first_says
from fastlift.engine.opening import Asked, Place
from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.train_state import names_digest
from fastlift.training.class_shards import ShardedClassifier


def start_warm(asked: Asked, place: Place, model: LiftModel) -> bool:
    """Give ``model`` what the run of ``--init-from`` has learned; whether it was. Every process reads the checkpoint.

    A run that goes on from a checkpoint of its own needs it no more.

    Raises:
        UserError: no such run or checkpoint, or one of other classes, another backbone, or another model.
    """
    source = asked.config.training.init_from
    if source is None or not asked.config.training.epochs or _has_begun(asked, place):
        return False
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
    trained, _, state = checkpoints.read(path, run.identity())
    if state.classes != names_digest(model.class_names):
        raise UserError(
            f"--init-from {source}: {_other_classes(run.class_names(), model.class_names)}: give a run of the same classes"
        )
    if state.backbone != model.backbone_fingerprint:
        raise UserError(f"--init-from {source}: that run has other backbone weights ({load(run.config).model.model})")
    if isinstance(model.classifier, ShardedClassifier):
        trained = model.classifier.cut(trained, str(path))
    try:
        model.load_trained(trained, f"--init-from {path}")
    except UserError as error:
        differ = _other_settings(asked, run)
        raise UserError(f"--init-from {source}: {differ}" if differ else str(error)) from None
    place.ui.say(f"what trains starts from {path.stem} of {run.path}")
    return True


def _has_begun(asked: Asked, place: Place) -> bool:
    """Whether the run goes on from a checkpoint."""
    folder = runs.RunFolder(asked.path).checkpoints
    return bool(first_says(place.world, lambda: "yes" if asked.resume and checkpoints.saved(folder) else ""))


def _other_classes(theirs: tuple[str, ...], mine: tuple[str, ...]) -> str:
    if len(theirs) != len(mine):
        return f"that run has {len(theirs):,} classes, this one {len(mine):,}"
    place, (one, other) = next((i, pair) for i, pair in enumerate(zip(theirs, mine, strict=True)) if pair[0] != pair[1])
    same = " (the same classes in another order)" if set(theirs) == set(mine) else ""
    return f"class {place} of that run is {one!r}, here {other!r}{same}"


def _other_settings(asked: Asked, run: runs.RunFolder) -> str:
    """The settings of the model that differ, in words; empty where none does."""
    theirs, mine = load(run.config).model.values(), asked.config.model.values()
    differ = [f"{name} {_told(theirs[name])}, here {_told(mine[name])}" for name in mine if theirs[name] != mine[name]]
    return f"the models differ: that run has {'; '.join(differ)}" if differ else ""


def _told(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
