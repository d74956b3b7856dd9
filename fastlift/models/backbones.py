"""Loading of pre-trained models: a name and weights -> a frozen ViT, its text tower and its preprocessing."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlift.errors import FastliftWarning, UserError
from fastlift.models import conversion
from fastlift.models.resnet import ResNet
from fastlift.models.text.features import TextTower
from fastlift.models.vit import VisionTransformer
from fastlift.settings.names import one_of
from fastlift.settings.ranges import MOST_PIXELS, check_range
from fastlift.system.files import read_json
from fastlift.system.memory import check_room, free_bytes

SHIPPED = "shapes-clip"
RANDOM = "random"  # in place of a tag or a file: untrained weights, asked for by name
# what OpenAI's files hold beside weights
OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Backbone:
    """A pre-trained model, ready to be frozen.

    Attributes:
        vit: the vision tower.
        projection: from the ViT's width to the joint space, [D, E]; None where there is no text side, or no projection.
        text: the text tower, or None.
        logit_scale: exp of CLIP's learned temperature.
        mean, std: normalisation of RGB values in 0..1.
        pretrained: False where the weights are random.
    """

    vit: VisionTransformer | ResNet
    projection: Tensor | None
    text: TextTower | None
    logit_scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pretrained: bool


def load(
    name: str | Path | dict[str, Any], pretrained: str | Path | None = None, image_size: int | None = None
) -> Backbone:
    """Load a backbone.

    Args:
        name: ``shapes-clip`` (shipped), an open_clip model name, an open_clip model configuration (a dict, or the path
            of its JSON), or ``timm:NAME``.
        pretrained: an open_clip tag (downloaded), or a weights file: safetensors, or a torch file, read with
            weights_only; or ``random``. None: random weights (with a warning), but timm's own default weights for
            ``timm:NAME``.
        image_size: pixels; position embeddings are interpolated when it is not the model's own.

    Raises:
        UserError: unknown names, weights that do not fit (the message names the tensors), models that are neither ViTs
            nor CLIP ResNets.
    """
    if image_size is not None:  # positions grow with its square
        check_range("image_size", image_size, 1, MOST_PIXELS)
        shape = outline(name, image_size)
        check_room({"image_size": shape.weights if shape else 0}, {"image_size": image_size}, free_bytes())
    if isinstance(name, str) and name.startswith("timm:"):
        return _load_timm(name.removeprefix("timm:"), pretrained, image_size)
    if name == SHIPPED:
        pretrained = pretrained or str(files("fastlift") / "assets" / "shapes_clip.safetensors")
    config, label = _shipped() if name == SHIPPED else _configuration(name)
    return _load_open_clip(config, label, pretrained, image_size)


def _shipped() -> tuple[dict[str, Any], str]:
    return json.loads((files("fastlift") / "assets" / "shapes_clip.json").read_text()), SHIPPED


@dataclass(frozen=True)
class Outline:
    """A backbone's shape without its numbers: a tower on torch's meta device, and the bytes of all weights in fp32."""

    vit: VisionTransformer | ResNet
    weights: int


def outline(name: str | Path | dict[str, Any], image_size: int | None = None) -> Outline | None:
    """The shape of what ``load`` would give, in a fraction of a second; nothing large is allocated, and no weights are read.

    None for architectures whose making reads numbers, which the meta device does not have.

    Raises:
        UserError: unknown names, and models that are not supported.
    """
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(name, str) and name.startswith("timm:"):
                model = _make_timm(name.removeprefix("timm:"), False, image_size)
                vit: VisionTransformer | ResNet = conversion.from_timm(model)
            else:
                config, label = _shipped() if name == SHIPPED else _configuration(name)
                _set_image_size(config, label, image_size)
                model = _instantiate(config, label)
                vit = conversion.from_open_clip(cast(Any, model).visual)[0]
    except (RuntimeError, NotImplementedError):
        return None
    return Outline(vit, sum(weight.numel() * 4 for weight in (*model.parameters(), *model.buffers())))


def _configuration(name: str | Path | dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The open_clip configuration behind a name, a file or a dict, and what to call it in messages."""
    import open_clip

    if isinstance(name, dict):
        return _model_part(deepcopy(name), "model configuration"), "custom"
    if str(name).endswith(".json"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"model configuration {path} does not exist")
        return _model_part(read_json(path), str(path)), path.stem
    known = one_of("model", str(name), [SHIPPED, *open_clip.list_models()])
    config = open_clip.get_model_config(known)
    assert config is not None
    return config, known


def _model_part(config: dict[str, Any], where: str) -> dict[str, Any]:
    config = config.get("model_cfg", config)
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        raise UserError(f"{where}: not an open_clip model configuration, {', '.join(missing)} is missing")
    return config


def _load_open_clip(
    config: dict[str, Any], label: str, pretrained: str | Path | None, image_size: int | None
) -> Backbone:
    import open_clip

    is_random = pretrained == RANDOM
    if is_random:
        pretrained = None
    tag = open_clip.get_pretrained_cfg(label, str(pretrained)) if pretrained is not None else {}
    weights = _weights_file(label, pretrained, tag)
    if tag.get("quick_gelu"):  # the tag's weights were trained with it, whatever the plain configuration says
        config["quick_gelu"] = True
    _set_image_size(config, label, image_size)
    with _seeded():
        model = _instantiate(config, label)
    if weights is None and not is_random:
        told = f"{label}: no pretrained weights were named, so the backbone is random"
        warnings.warn(told, FastliftWarning, stacklevel=3)
    elif weights is not None:
        _load_weights(model, weights, label, resize=image_size is not None)
    model.eval().requires_grad_(False)
    any_model: Any = model
    vit, projection = conversion.from_open_clip(any_model.visual)
    return Backbone(
        vit=vit,
        projection=projection,
        text=TextTower(model, _tokenizer(config, label)),
        logit_scale=math.exp(float(any_model.logit_scale)),
        mean=tuple(tag.get("mean") or OPENAI_MEAN),
        std=tuple(tag.get("std") or OPENAI_STD),
        pretrained=weights is not None,
    )


def _set_image_size(config: dict[str, Any], label: str, image_size: int | None) -> None:
    if image_size is None:
        return
    smallest = config["vision_cfg"].get("patch_size") or 32  # 32: what a ResNet's five halvings need
    if image_size < smallest:
        raise UserError(f"image_size: {label} needs {smallest} pixels or more, got {image_size}")
    config["vision_cfg"]["image_size"] = image_size


def _weights_file(label: str, pretrained: str | Path | None, tag: dict[str, Any]) -> Path | None:
    if pretrained is None:
        return None
    if Path(pretrained).is_file():
        return Path(pretrained)
    import open_clip

    if not tag:
        known = open_clip.list_pretrained_tags_by_model(label)
        hint = f"tags of {label}: {', '.join(known)}" if known else f"{label} has no tags: name a weights file"
        raise UserError(f"pretrained {str(pretrained)!r} is neither a file nor a known tag; {hint}")
    try:
        return Path(open_clip.download_pretrained(tag))
    except Exception as error:  # whatever the hub client raises: no network, no such file, no space
        raise UserError(
            f"the weights {label} / {pretrained} could not be downloaded ({type(error).__name__}: {error}); "
            "download them elsewhere and name the file with --pretrained",
            exit_code=1,
        ) from error


def _instantiate(config: dict[str, Any], label: str) -> nn.Module:
    from open_clip.model import CLIP, CustomTextCLIP

    config = deepcopy(config)
    if "multimodal_cfg" in config:
        raise UserError(f"{label}: CoCa models are not supported")
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    config["text_cfg"]["hf_model_pretrained"] = False
    try:
        return (CustomTextCLIP if custom else CLIP)(**config)
    except TypeError as error:
        raise UserError(f"{label}: not a valid open_clip model configuration: {error}") from None


def _load_weights(model: Any, weights: Path, label: str, resize: bool) -> None:
    """Load a file of any layout that open_clip knows, strictly; only a chosen image size may resize positions."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed

    state = convert_state_dict(model, _read_state(weights))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in OPENAI_EXTRAS:
        state.pop(name, None)
    for name in ("logit_scale", "logit_bias"):  # stored as a scalar or as one element
        if name in state and getattr(model, name) is not None:
            state[name] = state[name].reshape(getattr(model, name).shape)
    if resize:
        resize_pos_embed(state, model)
        _resize_pooling(state, model.state_dict())
        _resize_trunk(state, model.visual)
    check_fit(state, model.state_dict(), f"the weights {weights} do not fit the model {label}")
    check_finite(state, f"the weights {weights}")
    model.load_state_dict(state)


def _read_state(weights: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, in fp32; no code in it is run."""
    from open_clip.factory import load_state_dict

    try:
        state = load_state_dict(str(weights), weights_only=True)
        return {name: tensor.float() for name, tensor in state.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # torch and safetensors raise a dozen kinds; each means that this is no weights file
        raise UserError(
            f"{weights} is not a weights file that can be read safely: expected safetensors, or a torch file of tensors "
            f"alone (torch.load with weights_only); {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        ) from error


def _resize_pooling(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Positions of a ResNet's attention pooling for another grid: the mean's own, then the grid's, interpolated."""
    name = "visual.attnpool.positional_embedding"
    if name not in state or name not in wanted or state[name].shape == wanted[name].shape:
        return
    mean, grid = state[name][:1], state[name][1:]  # [1, W], [side * side, W]
    old, new = round(len(grid) ** 0.5), round((len(wanted[name]) - 1) ** 0.5)
    square = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    state[name] = torch.cat([mean, resized.permute(0, 2, 3, 1).reshape(new * new, -1)])


def _resize_trunk(state: dict[str, Tensor], visual: Any) -> None:
    """Positions of a timm trunk inside an open_clip model (SigLIP) for another grid."""
    from timm.layers import resample_abs_pos_embed

    name, trunk = "visual.trunk.pos_embed", getattr(visual, "trunk", None)
    if trunk is None or name not in state or state[name].shape == trunk.pos_embed.shape:
        return
    prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    state[name] = resample_abs_pos_embed(state[name], list(trunk.patch_embed.grid_size), num_prefix_tokens=prefix)


def check_fit(given: dict[str, Tensor], wanted: dict[str, Tensor], what: str) -> None:
    """Compare names and shapes of two states.

    Raises:
        UserError: they differ; the message names the first ten tensors and says how many.
    """
    problems = [f"missing {name} {list(wanted[name].shape)}" for name in wanted.keys() - given.keys()]
    problems += [f"not in the model: {name} {list(given[name].shape)}" for name in given.keys() - wanted.keys()]
    problems += [
        f"{name}: {list(given[name].shape)} in the file, {list(wanted[name].shape)} in the model"
        for name in given.keys() & wanted.keys()
        if given[name].shape != wanted[name].shape
    ]
    if problems:
        shown = "\n  ".join(sorted(problems)[:10])
        raise UserError(f"{what} ({len(problems)} tensors differ):\n  {shown}")


def check_finite(state: dict[str, Tensor], what: str) -> None:
    """No number in it is NaN or infinite.

    Raises:
        UserError: there is one; the message names its tensor.
    """
    wrong = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        raise UserError(f"{what} hold NaN or infinity in {len(wrong)} tensors (first: {wrong[0]}): they are damaged")


def _tokenizer(config: dict[str, Any], label: str) -> Any:
    import open_clip
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = config["text_cfg"]
    options = {"context_length": text.get("context_length", 77), **text.get("tokenizer_kwargs", {})}
    if "hf_tokenizer_name" not in text:
        return SimpleTokenizer(**options)

    def tokenize(texts: list[str]) -> Tensor:  # fetched from the hub when text is first needed, not before
        if label in open_clip.list_models():
            return open_clip.get_tokenizer(label)(texts)
        return HFTokenizer(text["hf_tokenizer_name"], **options)(texts)

    return tokenize


@contextmanager
def _seeded() -> Iterator[None]:
    """Untrained weights are the same ones every time, so that a run on them can be read again."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _load_timm(name: str, pretrained: str | Path | None, image_size: int | None) -> Backbone:
    file = Path(pretrained) if pretrained is not None and pretrained != RANDOM else None
    if file is not None and not file.is_file():
        raise UserError(
            f"pretrained {str(pretrained)!r} is not a file; timm's tags are part of the name: timm:NAME.TAG "
            f"(and {RANDOM!r} gives untrained weights)"
        )
    with _seeded():
        model = _make_timm(name, pretrained is None, image_size)
    if file is not None:
        _load_timm_weights(model, file, name)
    cfg = model.pretrained_cfg
    return Backbone(
        vit=conversion.from_timm(model.eval()),
        projection=None,
        text=None,
        logit_scale=1.0,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        pretrained=pretrained != RANDOM,
    )


def _make_timm(name: str, pretrained: bool, image_size: int | None) -> Any:
    """timm's model without a classifier, with its own weights or untrained ones."""
    import timm

    architecture = one_of("timm model", name.split(".")[0], timm.list_models())
    options: dict[str, Any] = {"num_classes": 0} | ({} if image_size is None else {"img_size": image_size})
    if "dinov3" in architecture:
        options["global_pool"] = "token"  # as DINOv3 was trained; timm's own default is the mean
    try:
        model = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # the hub client's, or an option that the architecture does not know
        raise UserError(f"timm:{name} could not be loaded: {error}", exit_code=1) from error
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is not None and min(grid) < 1:
        raise UserError(
            f"image_size: timm:{name} needs {max(model.patch_embed.patch_size)} pixels or more, got {image_size}"
        )
    return model


def _load_timm_weights(model: Any, file: Path, name: str) -> None:
    """Load a file strictly, but for a classifier that the model does not have; positions are fitted to its grid."""
    from timm.models import eva, vision_transformer

    state = _read_state(file)
    family = {"VisionTransformer": vision_transformer, "Eva": eva}.get(type(model).__name__)
    if family is not None:
        state = family.checkpoint_filter_fn(state, model)
    wanted = model.state_dict()
    state = {
        key: tensor for key, tensor in state.items() if key in wanted or not key.startswith(("head.", "head_dist."))
    }
    check_fit(state, wanted, f"the weights {file} do not fit the model timm:{name}")
    check_finite(state, f"the weights {file}")
    model.load_state_dict(state)
