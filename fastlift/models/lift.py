"""The LIFT model: a frozen vision transformer, a tuner inside it, a classifier on its class token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastlift.errors import UserError
from fastlift.models.calibrated import CalibratedClassifier, Calibration
from fastlift.models.classifiers import Classifier
from fastlift.models.prediction.predicting import Predicts
from fastlift.models.preprocessing import Preprocessing
from fastlift.models.resnet import ResNet
from fastlift.models.tuners import TunerSettings
from fastlift.models.tuners.mask import Scatter
from fastlift.models.vit import VisionTransformer
from fastlift.models.weights import check_fit


class LiftModel(Predicts):
    """images [B, 3, S, S], normalised -> logits [B, C] in fp32.

    What trains has ``requires_grad``, nothing else has. ``tuner_parameters`` and ``head_parameters`` hold it under the
    names of the authors' checkpoints. ``predict`` takes images as they are: files, PIL images, arrays, folders ...
    """

    def __init__(
        self,
        vit: VisionTransformer | ResNet,
        classifier: Classifier,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        tuner_parameters: dict[str, nn.Parameter],
        tuner_settings: TunerSettings,
        backbone_fingerprint: str,
    ) -> None:
        super().__init__()
        self.vit = vit
        self.classifier: Classifier = classifier
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.tuner_parameters = tuner_parameters
        self.tuner_settings = tuner_settings
        self.backbone_fingerprint = backbone_fingerprint
        self.compiled_sizes: frozenset[int] = frozenset()  # batch sizes that the backbone is compiled for

    def calibrate(self, calibration: Calibration) -> None:
        """Give calibrated logits from now on, and answers by the calibration's threshold.

        Raises:
            UserError: it is one of other classes.
        """
        if len(calibration.class_counts) != len(self.class_names):
            told = f"{len(calibration.class_counts)} classes, the model has {len(self.class_names)}"
            raise UserError(f"the calibration is of {told}")
        plain = self.classifier.inner if isinstance(self.classifier, CalibratedClassifier) else self.classifier
        shift = calibration.shift().to(next(self.parameters()).device)
        self.classifier, self.calibration = CalibratedClassifier(plain, shift, calibration.temperature), calibration

    @property
    def head_parameters(self) -> dict[str, nn.Parameter]:
        """What trains of the classifier, by name."""
        return self.classifier.trained_parameters()

    @property
    def towers(self) -> tuple[nn.Module, ...]:
        """The image tower, and the text tower where class features are made in every step."""
        text = getattr(self.classifier, "text", None)
        return (self.vit, text) if isinstance(text, nn.Module) else (self.vit,)

    def trained(self) -> dict[str, nn.Parameter]:
        """Everything that trains: ``tuner.NAME`` and ``head.NAME``."""
        tuner = {f"tuner.{name}": parameter for name, parameter in self.tuner_parameters.items()}
        return tuner | {f"head.{name}": parameter for name, parameter in self.head_parameters.items()}

    def load_trained(self, state: dict[str, Tensor], source: str = "state") -> None:
        """Take over what ``trained`` names, strictly.

        Raises:
            UserError: tensors that are missing, too many or of another shape; the message names the first ten.
        """
        mine = self.trained()
        masks = {f"{name}.index": mask for name, mask in self._masks().items() if f"{name}.index" in state}
        wanted = {name: p.data for name, p in mine.items()} | {name: mask.index for name, mask in masks.items()}
        check_fit(state, wanted, f"{source} does not fit this model")
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(state[name])
        for name, mask in masks.items():
            mask.give(state[name])

    def state(self) -> dict[str, Tensor]:
        """What ``load_trained`` takes: everything that trains, and masks that a checkpoint gave."""
        return {**self.trained(), **self.given_masks()}

    def given_masks(self) -> dict[str, Tensor]:
        """``NAME.index`` -> which entries the parameter NAME stands for, where a checkpoint gave them (LIFT+'s masks)."""
        return {f"{name}.index": mask.index for name, mask in self._masks().items() if mask.is_given}

    def _masks(self) -> dict[str, Scatter]:
        masks = {id(module.values): module for module in self.modules() if isinstance(module, Scatter)}
        return {name: masks[id(parameter)] for name, parameter in self.trained().items() if id(parameter) in masks}

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Compute in ``dtype``: frozen weights are held in it, what trains stays in fp32."""
        self.vit.set_compute_dtype(dtype)
        self.classifier.set_compute_dtype(dtype)

    def features(self, images: Tensor) -> Tensor:
        """Features [B, D] of images, in the compute dtype."""
        if self.compiled_sizes and len(images) not in self.compiled_sizes:
            return self.vit.forward(images)  # past the compiled graph: a partial batch must not compile another
        return self.vit(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))
