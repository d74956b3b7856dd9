"""The authors' checkpoints: ``{"tuner": state, "head": state}`` in their names, read and written.

fastlift keeps what trains under these names itself, so there is nothing to translate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastlift.errors import UserError
from fastlift.models.lift import LiftModel

LiftState = dict[str, dict[str, Tensor]]


def load_lift_checkpoint(model: LiftModel, source: str | Path | LiftState) -> None:
    """Load the authors' checkpoint into a model with the same tuner and classifier, strictly.

    Args:
        model: built with the settings that the checkpoint was trained with.
        source: path of a ``checkpoint.pth.tar`` (read with weights_only), or its content.

    Raises:
        UserError: not such a file, or tensors that are missing, too many or of another shape (the first ten named).
    """
    state = source if isinstance(source, dict) else _read(Path(source))
    if "head" not in state:
        raise UserError(
            f"not a LIFT checkpoint: expected the keys 'tuner' and 'head', got {', '.join(map(str, state))}"
        )
    parts = {"tuner": state.get("tuner") or {}, "head": state["head"] or {}}
    flat = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    model.load_trained(flat, "the LIFT checkpoint")


def lift_state(model: LiftModel) -> LiftState:
    """What trains, as the authors' programs store it: copies on the CPU, under their names."""
    return {
        "tuner": {name: parameter.detach().cpu().clone() for name, parameter in model.tuner_parameters.items()},
        "head": {name: parameter.detach().cpu().clone() for name, parameter in model.head_parameters.items()},
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways; each means that this file is not one of theirs
        raise UserError(f"{path} could not be read as a torch file of tensors ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a LIFT checkpoint: expected a dict with 'tuner' and 'head'")
    return state
