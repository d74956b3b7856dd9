"""The trained model of a run."""

from __future__ import annotations

from pathlib import Path

from fastlift.config import load
from fastlift.engine.model import build_model
from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.train_state import names_digest
from fastlift.system.progress import Quiet, Ui


def load_run(folder: str | Path, checkpoint: str | None = None, ui: Ui | None = None) -> LiftModel:
    """The trained model of a run, on the CPU in fp32, ready to predict.

    Args:
        folder: a run folder.
        checkpoint: a checkpoint's name (``epoch-003``) or path; default: the last one that is whole.
        ui: told which newer checkpoints were passed over, and why.

    Raises:
        UserError: no run; no checkpoint; a damaged one, or another run's; settings, class names or backbone weights other
            than those that the run trained on.
    """
    run = runs.open_run(Path(folder))
    config = load(run.config)
    identity = run.identity()
    runs.check_settings(run, identity, config)
    names = run.class_names()
    path = run.find_checkpoint(checkpoint, (ui or Quiet()).say)
    if path is None:
        untrained = None if config.training.epochs else build_model(config, names)
        if untrained is None or untrained.trained():
            raise UserError(f"{folder} has no checkpoint yet; {runs.way_on(run.path)}")
        return untrained
    trained, _, state = checkpoints.read(path, identity)
    if state.epoch > config.training.epochs:
        raise UserError(
            f"{path} is no place in this run: it was saved after epoch {state.epoch} of {config.training.epochs}"
        )
    if state.classes != names_digest(names):
        raise UserError(f"{run.data} was changed or damaged: its class names are not those that {path} was trained on")
    model = build_model(config, names, init="random")
    if state.backbone != model.backbone_fingerprint:
        raise UserError(f"the backbone weights are not those that {folder} was trained on; restore them first")
    model.load_trained(trained, f"checkpoint {path}")
    return model
