"""What a run is given to start from: values of everything that trains, made from what other runs have trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.runs.train_state import names_digest


@dataclass(frozen=True)
class GivenState:
    """Values under the names of checkpoints, and where they are from.

    Attributes:
        trained: as ``LiftModel.load_trained`` takes it.
        classes, backbone: as in ``TrainState``: digest of the classes' names, and fingerprint of the frozen weights.
        made_of: what the run keeps of their origin (``soup.json``).
    """

    trained: Mapping[str, Tensor]
    classes: str
    backbone: str
    made_of: dict[str, Any]

    def give(self, model: LiftModel) -> None:
        """Give ``model`` these values.

        Raises:
            UserError: a model of other classes, backbone weights or shapes.
        """
        if self.backbone != model.backbone_fingerprint:
            raise UserError(
                "the backbone weights are not those that the runs of this soup trained on; restore them first"
            )
        if self.classes != names_digest(model.class_names):
            raise UserError("the data set has other classes than the runs of this soup were trained on")
        model.load_trained(dict(self.trained), "the soup")
