"""The LIFT model: a frozen vision transformer, a tuner inside it, a classifier on its class token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlift.data.sampling.crops import Interpolation
from fastlift.errors import UserError
from fastlift.models import backbones, classifiers, tuners
from fastlift.models.fingerprint import weights_fingerprint
from fastlift.models.footprint import trained_bytes
from fastlift.models.resnet import ResNet
from fastlift.models.text.features import Progress, text_features
from fastlift.models.text.head import CoopInit, TextSide, build_text_head, check_text_tuners
from fastlift.models.text.tower import CoopPosition
from fastlift.models.tuners.mask import Scatter
from fastlift.models.vit import VisionTransformer
from fastlift.settings.names import one_of
from fastlift.settings.ranges import check_range
from fastlift.system.memory import check_room, free_bytes

HeadName = Literal["cosine", "linear", "l2", "layernorm", "text", "zero_shot"]
InitName = Literal["text", "random"]
# Starts that need images of the training set: ``fastlift.starts`` makes them, ``init`` takes them as a tensor.
IMAGE_STARTS = ("class_mean", "class_mean_1", "class_mean_10", "class_mean_100", "linear_probe")


@dataclass(frozen=True)
class Preprocessing:
    """What images must be before they enter the model: resized to a size in pixels, then (RGB / 255 - mean) / std."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation


class LiftModel(nn.Module):
    """images [B, 3, S, S], normalised -> logits [B, C] in fp32.

    What trains has ``requires_grad``, nothing else has. ``tuner_parameters`` and ``head_parameters`` hold it under the
    names of the authors' checkpoints.
    """

    def __init__(
        self,
        vit: VisionTransformer | ResNet,
        classifier: classifiers.Classifier | classifiers.ZeroShotClassifier,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        tuner_parameters: dict[str, nn.Parameter],
        tuner_settings: tuners.TunerSettings,
        backbone_fingerprint: str,
    ) -> None:
        super().__init__()
        self.vit = vit
        self.classifier = classifier
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.tuner_parameters = tuner_parameters
        self.tuner_settings = tuner_settings
        self.backbone_fingerprint = backbone_fingerprint
        self.compiled_sizes: frozenset[int] = frozenset()  # batch sizes that the backbone is compiled for
        # Whether it replays CUDA graphs: features and gradients then lie where its next call overwrites them.
        self.replays_graphs = False

    @property
    def head_parameters(self) -> dict[str, nn.Parameter]:
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
        backbones.check_fit(state, wanted, f"{source} does not fit this model")
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


def create_model(
    name: str | Path | dict[str, Any],
    *,
    class_names: Sequence[str],
    pretrained: str | Path | None = None,
    tuner: str | Sequence[str] = "adaptformer",
    rank: int | None = None,
    lora_rank: int | None = None,
    layers: int | Sequence[int] | None = None,
    classifier: HeadName = "cosine",
    scale: float = 25.0,
    init: InitName | Tensor = "text",
    prompt: str = "default",
    text_tuner: str | Sequence[str] = "none",
    text_rank: int = 4,
    text_layers: int | Sequence[int] | None = None,
    text_prompt_length: int = 2,
    coop_length: int = 4,
    coop_position: CoopPosition = "end",
    coop_init: CoopInit = "random",
    clip_adapter_rank: int = 4,
    image_size: int | None = None,
    interpolation: Interpolation = "bilinear",
    prompt_length: int | None = None,
    mask_ratio: float | None = None,
    mask_seed: int = 0,
    sizes: tuners.Sizes = "lift",
    seed: int = 0,
    progress: Progress | None = None,
) -> LiftModel:
    """A LIFT model, ready to train: the tuner starts at the frozen model, the classifier at the text features.

    Args:
        name: ``shapes-clip`` (shipped), an open_clip model name, an open_clip model configuration (dict, or path of its
            JSON), or ``timm:NAME``.
        class_names: names of the C classes, in the order of the labels.
        pretrained: an open_clip tag, or a weights file (safetensors, or a torch file, read with weights_only).
        tuner: ``adaptformer``, ``adapter``, ``lora`` (queries and values), ``lora_mlp``, ``vpt_shallow``, ``vpt_deep``,
            ``ssf_attn``, ``ssf_mlp``, ``ssf_ln``, ``bias``, ``layernorm``, ``mask``, ``full``, ``none``, or several;
            for CLIP ResNets ``full``, ``bias``, ``batchnorm``, ``ssf``, ``none``.
        rank: bottleneck width; None: 2 ** max(0, floor(log2(C / (2 L)))) for L blocks.
        lora_rank: that of LoRA, beside others of another width; None: ``rank``, else by ``sizes``.
        layers: blocks with a tuner: None (all), the last k, or a list of indices.
        classifier: ``cosine``, ``linear``, ``l2``, ``layernorm``; ``text`` is CLIP's own head with class features from
            the text tower in every step; ``zero_shot`` is the same with nothing that trains.
        scale: the cosine classifier's.
        init: start of the classifier's weight: ``text`` (text features of the class names, mapped back to the ViT's
            width by the projection's transpose, L2-normed), ``random``, or a weight [C, D], as ``fastlift.starts`` makes
            it from training images. The classifiers ``text`` and ``zero_shot`` have no weight to start.
        prompt: ``default``, ``classname``, ``ensemble``, ``descriptor:FILE``, or a template with ``{}``.
        text_tuner: what learns on the text side, with the classifier ``text``: ``coop`` (learned prompt context),
            ``clip_adapter`` (on both sides), ``projection`` (both projections), and any tuner but ``none`` inside the
            text tower; or several; ``none``.
        text_rank, text_layers, text_prompt_length: sizes of the tuners inside the text tower, and its blocks that get one
            (as ``layers``); the defaults are LIFT+'s.
        coop_length, coop_position, coop_init: learned words of the prompt, where the class name stands among them
            (``front``, ``middle``, ``end``), and their start: ``random``, or the words of ``prompt`` itself.
        clip_adapter_rank: bottleneck width of CLIP-Adapters.
        image_size: pixels, where it is not to be the model's own; positions are interpolated.
        interpolation: how images are resized to it: ``bilinear`` (LIFT), or ``bicubic`` (LIFT+, CLIP's own evaluation).
        prompt_length: visual prompts a block.
        mask_ratio, mask_seed: share of the weights that the tuner ``mask`` trains, and the seed of their draw.
        sizes: whose rule gives the sizes that are not given: ``lift``'s, or ``lift_plus``'s (LoRA C / (4 L), prompts C / L,
            mask C / (L (12 D + 9))).
        seed: of the tuner's and the classifier's random starts.
        progress: called with (done, total) while prompts are encoded.

    Returns:
        the model on the CPU, in eval mode (it has no dropout), computing in fp32.

    Raises:
        UserError: unknown names, weights that do not fit, settings without a meaning.

    Source: LIFT (Shi et al., "Long-Tail Learning with Foundation Model: Heavy Fine-Tuning Hurts", ICML 2024).
    """
    check_range("seed", seed, 0)
    check_range("mask_seed", mask_seed, 0)
    names, tuner_names = list(class_names), [tuner] if isinstance(tuner, str) else list(tuner)
    if len(names) < 2:
        raise UserError(f"class_names: expected at least two classes, got {len(names)}")
    one_of("classifier", classifier, HeadName.__args__)  # type: ignore[attr-defined]
    text_names = [text_tuner] if isinstance(text_tuner, str) else list(text_tuner)
    _check_init(init, classifier)
    if not scale > 0:
        raise UserError(f"scale: expected more than 0, got {scale}")
    tuners.check_names(tuner_names)
    check_text_tuners(text_names, classifier)
    generator = torch.Generator().manual_seed(seed)
    backbone = backbones.load(name, pretrained, image_size)
    fingerprint = weights_fingerprint(backbone.vit.named_parameters())
    settings = tuners.resolve(
        backbone.vit,
        classes=len(names),
        rank=rank,
        lora_rank=lora_rank,
        layers=layers,
        prompt_length=prompt_length,
        mask_ratio=mask_ratio,
        mask_seed=mask_seed,
        sizes=sizes,
        generator=generator,
    )
    _check_tuner_fits(backbone.vit, tuner_names, settings)
    parameters = tuners.attach(backbone.vit, tuner_names, settings)
    head: classifiers.Classifier | classifiers.ZeroShotClassifier
    if classifier == "zero_shot":
        if parameters:
            raise UserError("the zero_shot classifier does not train: it goes with tuner='none' alone")
        head = zero_shot_head(backbone, names, prompt, progress)
    elif classifier == "text":
        side = TextSide(
            tuple(text_names),
            prompt,
            coop_length,
            coop_position,
            coop_init,
            clip_adapter_rank,
            text_rank,
            text_layers,
            text_prompt_length,
            mask_ratio,
        )
        head, inside = build_text_head(backbone, names, side, settings)
        parameters |= inside
    else:
        own = classifiers.build(classifier, backbone.vit.width, len(names), scale=scale, generator=generator)
        if isinstance(init, Tensor):
            own.set_weight(init)
        elif init == "text":
            own.set_weight(text_start(backbone, names, prompt, progress))
        head = own
    pixels = _square(backbone.vit.image_size)
    return LiftModel(
        backbone.vit,
        head,
        class_names=names,
        preprocessing=Preprocessing(pixels, backbone.mean, backbone.std, interpolation),
        tuner_parameters=parameters,
        tuner_settings=settings,
        backbone_fingerprint=fingerprint,
    ).eval()


def _check_tuner_fits(vit: VisionTransformer | ResNet, names: list[str], settings: tuners.TunerSettings) -> None:
    """There is memory for what the tuner trains.

    Raises:
        UserError: there is not.
    """
    if not isinstance(vit, ResNet):
        values = {name: getattr(settings, name) for name in ("rank", "lora_rank", "prompt_length")}
        check_room(trained_bytes(vit, names, settings), values, free_bytes())


def _check_init(init: InitName | Tensor, classifier: HeadName) -> None:
    if isinstance(init, Tensor):
        if classifier in ("text", "zero_shot"):
            raise UserError(
                f"init: the classifier {classifier} is made from text and has no weight of its own to start"
            )
        return
    if init in IMAGE_STARTS:
        raise UserError(
            f"init {init!r} needs training images: fastlift.train makes it by itself; elsewhere pass the weight that "
            "fastlift.starts makes from features"
        )
    one_of("init", init, [*InitName.__args__, *IMAGE_STARTS])  # type: ignore[attr-defined]


def _square(size: tuple[int, int]) -> int:
    if size[0] != size[1]:
        raise UserError(f"models with images that are not square ({size[0]} x {size[1]}) are not supported")
    return size[0]


def _features(backbone: backbones.Backbone, names: list[str], prompt: str, progress: Progress | None) -> Tensor:
    if backbone.text is None:
        raise UserError(
            "init: this model has no text tower to start the classifier from: choose another start (class_mean, linear_probe or "
            "random). Zero-shot classification needs a text tower"
        )
    return text_features(backbone.text, names, prompt, progress=progress)


def text_start(backbone: backbones.Backbone, names: list[str], prompt: str, progress: Progress | None = None) -> Tensor:
    """Classifier weight [C, D] from text: the class features through the projection's transpose, L2-normed."""
    features = _features(backbone, names, prompt, progress)
    if backbone.projection is not None:
        features = features @ backbone.projection.float().T
    if features.shape[1] != backbone.vit.width:
        raise UserError("the text features have another width than the image features, and no projection links them")
    return F.normalize(features, dim=1)


def zero_shot_head(
    backbone: backbones.Backbone, names: list[str], prompt: str, progress: Progress | None = None
) -> classifiers.ZeroShotClassifier:
    """CLIP's own zero-shot classifier for the class names."""
    features = F.normalize(_features(backbone, names, prompt, progress), dim=1)
    projection = None if backbone.projection is None else backbone.projection.float()
    return classifiers.ZeroShotClassifier(projection, features, backbone.logit_scale)
