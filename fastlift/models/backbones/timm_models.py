"""Models of timm: ``timm:NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from fastlift.errors import UserError
from fastlift.models import conversion
from fastlift.models.backbones.backbone import Backbone, Name
from fastlift.models.resnet import ResNet
from fastlift.models.vit import VisionTransformer
from fastlift.models.weights import RANDOM, load_strictly, read_state, seeded
from fastlift.settings import one_of
from fastlift.system.hub import from_hub

PREFIX = "timm:"
NAMES = f"'{PREFIX}NAME'"


def takes(name: object) -> bool:
    """Whether it is timm's."""
    return isinstance(name, str) and name.startswith(PREFIX)


def load(name: Name, pretrained: str | Path | None = None, image_size: int | None = None) -> Backbone:
    """The model with its own weights, a file's, or random ones."""
    file = Path(pretrained) if pretrained is not None and pretrained != RANDOM else None
    if file is not None and not file.is_file():
        raise UserError(
            f"pretrained {str(pretrained)!r} is not a file; timm's tags are part of the name: timm:NAME.TAG "
            f"(and {RANDOM!r} gives untrained weights)"
        )
    with seeded():
        model = _model(name, pretrained is None, image_size)
    if file is not None:
        _load_weights(model, file, name)
    cfg = model.pretrained_cfg
    return Backbone(
        vit=conversion.from_timm(model.eval()),
        projection=None,
        text=None,
        logit_scale=1.0,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )


def repository(name: Name, pretrained: str | None) -> str | None:
    """Where a model's own weights lie on the hub."""
    import timm

    own = (
        timm.get_pretrained_cfg(str(name).removeprefix(PREFIX), allow_unregistered=True) if pretrained is None else None
    )
    return None if own is None else own.hf_hub_id


def make(name: Name, image_size: int | None = None) -> tuple[nn.Module, VisionTransformer | ResNet]:
    """The model without weights, and as ours."""
    model = _model(name, False, image_size)
    return model, conversion.from_timm(model)


def _model(name: object, pretrained: bool, image_size: int | None) -> Any:
    """timm's model without a classifier, with its own weights or untrained ones."""
    import timm

    own_name = str(name).removeprefix(PREFIX)
    architecture = one_of("timm model", own_name.split(".")[0], timm.list_models())
    options: dict[str, Any] = {"num_classes": 0} | ({} if image_size is None else {"img_size": image_size})
    if "dinov3" in architecture:
        options["global_pool"] = "token"  # as DINOv3 was trained; timm's own default is the mean
    try:
        model = from_hub(
            f"the weights {name}",
            lambda: timm.create_model(own_name, pretrained=pretrained, **options),
            "name a weights file with --pretrained",
        )
    except UserError:
        raise
    except Exception as error:  # the hub client's, or an option that the architecture does not know
        raise UserError(f"{name} could not be loaded: {error}", exit_code=1) from error
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is not None and min(grid) < 1:
        raise UserError(
            f"image_size: {name} needs {max(model.patch_embed.patch_size)} pixels or more, got {image_size}"
        )
    return model


def _load_weights(model: Any, file: Path, name: Name) -> None:
    """Load a file strictly, but for a classifier that the model does not have; positions are fitted to its grid."""
    from timm.models import eva, vision_transformer

    state = read_state(file)
    family = {"VisionTransformer": vision_transformer, "Eva": eva}.get(type(model).__name__)
    if family is not None:
        state = family.checkpoint_filter_fn(state, model)
    wanted, classifiers = model.state_dict().keys(), ("head.", "head_dist.")
    state = {key: tensor for key, tensor in state.items() if key in wanted or not key.startswith(classifiers)}
    load_strictly(model, state, file, str(name))
