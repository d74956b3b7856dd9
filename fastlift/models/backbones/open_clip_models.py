"""Models of open_clip by name, by configuration, and the shipped small one."""

from __future__ import annotations

import json
import math
import re
import warnings
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastlift.errors import FastliftWarning, UserError
from fastlift.models import conversion
from fastlift.models.backbones.backbone import Backbone, Name, TextTower
from fastlift.models.backbones.right_names import right_name
from fastlift.models.resnet import ResNet
from fastlift.models.vit import VisionTransformer
from fastlift.models.weights import RANDOM, load_strictly, read_state, seeded
from fastlift.settings import one_of
from fastlift.system.files import read_json
from fastlift.system.hub import from_hub

SHIPPED = "shapes-clip"
NAMES = f"'{SHIPPED}' (shipped), an open_clip model name, the path of an open_clip JSON"
_ASSETS = files("fastlift") / "assets"
_TIMM_TOWERS = re.compile("(vit|eva)_(?!relpos|pe_).*patch")  # without hybrids and EVA-02

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def takes(name: object) -> bool:
    """All that is no other library's."""
    return True


def load(name: Name, pretrained: str | Path | None = None, image_size: int | None = None) -> Backbone:
    """The model with a tag's weights, a file's, random ones, or the shipped model's own."""
    import open_clip

    config, label = _configuration(name)
    if label == SHIPPED and pretrained is None:
        pretrained = str(_ASSETS / "shapes_clip.safetensors")
    tag: dict[str, Any] = {}
    weights = None
    if pretrained is not None and pretrained != RANDOM:
        tag = open_clip.get_pretrained_cfg(label, str(pretrained))
        weights = _weights_file(label, pretrained, tag)
    if tag.get("quick_gelu"):  # the tag's weights were trained with it, whatever the plain configuration says
        config["quick_gelu"] = True
    _set_image_size(config, label, image_size)
    with seeded():
        model: Any = _instantiate(config, label)
    if pretrained is None:
        told = f"{label}: no pretrained weights were named, so the backbone is random"
        warnings.warn(told, FastliftWarning, stacklevel=4)
    elif weights is not None:
        _load_weights(model, weights, label, resize=image_size is not None)
    model.eval().requires_grad_(False)
    vit, projection = conversion.from_open_clip(model.visual)
    return Backbone(
        vit=vit,
        projection=projection,
        text=TextTower(model, _tokenizer(config, label)),
        logit_scale=math.exp(float(model.logit_scale)),
        mean=tuple(tag.get("mean") or OPENAI_MEAN),
        std=tuple(tag.get("std") or OPENAI_STD),
    )


def repository(name: Name, pretrained: str | None) -> str | None:
    """Where a tag's weights lie on the hub."""
    import open_clip

    tag = open_clip.get_pretrained_cfg(str(name), pretrained) if isinstance(name, str) and pretrained else None
    return (tag or {}).get("hf_hub", "").rpartition("/")[0] or None


def make(name: Name, image_size: int | None = None) -> tuple[nn.Module, VisionTransformer | ResNet]:
    """The model without weights, and its image tower as ours."""
    config, label = _configuration(name)
    _set_image_size(config, label, image_size)
    model: Any = _instantiate(config, label)
    return model, conversion.from_open_clip(model.visual)[0]


def _configuration(name: Name) -> tuple[dict[str, Any], str]:
    """The open_clip configuration behind a name, a file or a dict, and what to call it in messages."""
    import open_clip

    if name == SHIPPED:
        return json.loads((_ASSETS / "shapes_clip.json").read_text()), SHIPPED
    if isinstance(name, dict):
        return _model_part(deepcopy(name), "model configuration"), "custom"
    if str(name).endswith(".json"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"model configuration {path} does not exist")
        return _model_part(read_json(path), str(path)), path.stem
    names = open_clip.list_models()
    if name not in names and (right := right_name(str(name))) is not None:
        raise UserError(f"unknown model {str(name)!r}: fastlift calls it {right}")
    known = one_of("model", str(name), names if name in names else loadable())
    config = open_clip.get_model_config(known)
    assert config is not None
    return config, known


def loadable() -> list[str]:
    """Names of open_clip whose image tower is of a kind that ``conversion`` takes, as their configurations tell."""
    import open_clip

    configs = {name: open_clip.get_model_config(name) or {} for name in open_clip.list_models()}
    towers = {name: config["vision_cfg"].get("timm_model_name") for name, config in configs.items()}
    taken = (name for name, tower in towers.items() if tower is None or _TIMM_TOWERS.match(tower))
    return [SHIPPED, *(name for name in taken if "multimodal_cfg" not in configs[name])]


def _model_part(config: dict[str, Any], where: str) -> dict[str, Any]:
    config = config.get("model_cfg", config)
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        raise UserError(f"{where}: not an open_clip model configuration, {', '.join(missing)} is missing")
    return config


def _set_image_size(config: dict[str, Any], label: str, image_size: int | None) -> None:
    if image_size is None:
        return
    smallest = config["vision_cfg"].get("patch_size") or 32  # 32: what a ResNet's five halvings need
    if image_size < smallest:
        raise UserError(f"image_size: {label} needs {smallest} pixels or more, got {image_size}")
    config["vision_cfg"]["image_size"] = image_size


def _weights_file(label: str, pretrained: str | Path, tag: dict[str, Any]) -> Path:
    if Path(pretrained).is_file():
        return Path(pretrained)
    import open_clip

    if not tag:
        known = open_clip.list_pretrained_tags_by_model(label)
        hint = f"tags of {label}: {', '.join(known)}" if known else f"{label} has no tags: name a weights file"
        raise UserError(f"pretrained {str(pretrained)!r} is neither a file nor a known tag; {hint}")
    instead = "name a weights file with --pretrained"
    try:
        return Path(
            from_hub(f"the weights {label} / {pretrained}", lambda: open_clip.download_pretrained(tag), instead)
        )
    except UserError:
        raise
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

    state = convert_state_dict(model, read_state(weights))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("input_resolution", "context_length", "vocab_size"):  # what OpenAI's files hold beside weights
        state.pop(name, None)
    for name in ("logit_scale", "logit_bias"):  # stored as a scalar or as one element
        if name in state and getattr(model, name) is not None:
            state[name] = state[name].reshape(getattr(model, name).shape)
    if resize:
        resize_pos_embed(state, model)
        _resize_pooling(state, model.state_dict())
        _resize_trunk(state, model.visual)
    load_strictly(model, state, weights, label)


def _resize_pooling(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Positions of a ResNet's attention pooling for another grid; the first is the mean's own."""
    from timm.layers import resample_abs_pos_embed

    name = "visual.attnpool.positional_embedding"
    if name in state and name in wanted and state[name].shape != wanted[name].shape:
        side = math.isqrt(len(wanted[name]) - 1)
        state[name] = resample_abs_pos_embed(state[name][None], [side, side], num_prefix_tokens=1)[0]


def _resize_trunk(state: dict[str, Tensor], visual: Any) -> None:
    """Positions of a timm trunk inside an open_clip model (SigLIP) for another grid."""
    from timm.layers import resample_abs_pos_embed

    name, trunk = "visual.trunk.pos_embed", getattr(visual, "trunk", None)
    if trunk is None or name not in state or state[name].shape == trunk.pos_embed.shape:
        return
    prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    state[name] = resample_abs_pos_embed(state[name], list(trunk.patch_embed.grid_size), num_prefix_tokens=prefix)


def _tokenizer(config: dict[str, Any], label: str) -> Any:
    import open_clip
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = config["text_cfg"]
    options = {"context_length": text.get("context_length", 77), **text.get("tokenizer_kwargs", {})}
    if "hf_tokenizer_name" not in text:
        return SimpleTokenizer(**options)

    def tokenize(texts: list[str]) -> Tensor:  # fetched from the hub when text is first needed, not before
        def load() -> Any:
            if label in open_clip.list_models():
                return open_clip.get_tokenizer(label)
            return HFTokenizer(text["hf_tokenizer_name"], **options)

        return from_hub(f"the tokenizer's files of {label}", load, "choose a model with CLIP's own tokenizer")(texts)

    return tokenize
