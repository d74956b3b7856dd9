"""Loading of pre-trained models: a name and weights -> a frozen ViT, its text tower and its preprocessing.

A library of models is a file here and a line in ``LIBRARIES``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import torch
from torch import nn
from typing_extensions import Doc

from fastlift.models.backbones import open_clip_models, timm_models
from fastlift.models.backbones.backbone import Backbone as Backbone
from fastlift.models.backbones.backbone import Name
from fastlift.models.resnet import ResNet
from fastlift.models.vit import VisionTransformer
from fastlift.settings import MOST_PIXELS, Between, NamesFile, Settings
from fastlift.system.memory import check_room, free_bytes


class Library(Protocol):
    """Where models come from."""

    NAMES: str  # how its models are named, for ``--help``

    def takes(self, name: object) -> bool:
        """Whether a name is for this library."""

    def load(self, name: Name, pretrained: str | Path | None, image_size: int | None) -> Backbone:
        """The model with its weights."""

    def repository(self, name: Name, pretrained: str | None) -> str | None:
        """Where the weights lie on Hugging Face's hub; None where they do not, or it is not known."""

    def make(self, name: Name, image_size: int | None) -> tuple[nn.Module, VisionTransformer | ResNet]:
        """The model without weights, and its image tower as ours."""


LIBRARIES: tuple[Library, ...] = (timm_models, open_clip_models)  # the first that takes a name has it


def _library(name: Name) -> Library:
    return next(library for library in LIBRARIES if library.takes(name))


def load(name: Name, pretrained: str | Path | None = None, image_size: int | None = None) -> Backbone:
    """Load a backbone, by the settings of ``BackboneSettings``; an open_clip model configuration may be a dict too.

    Args:
        name: as the setting ``model``: ``shapes-clip``, an open_clip model or its configuration, or ``timm:NAME``.
        pretrained: without it open_clip's models are random (with a warning), and timm's have their own weights.
        image_size: in pixels, where not the model's own; position embeddings are interpolated.

    Returns:
        the ViT or ResNet, its text tower or None, and its preprocessing, frozen, on the CPU in fp32.

    Raises:
        UserError: unknown names, weights that do not fit (the message names the tensors), models that are neither ViTs
            nor CLIP ResNets.
    """
    if image_size is not None:  # positions grow with its square
        shape = outline(name, image_size)
        check_room({"image_size": shape.weights if shape else 0}, {"image_size": image_size}, free_bytes())
    return _library(name).load(name, pretrained, image_size)


def hub_name(name: Name, pretrained: str | None) -> str | None:
    """The repository on Hugging Face's hub that holds a backbone's weights; None where none does."""
    return _library(name).repository(name, pretrained)


@dataclass(frozen=True)
class BackboneSettings(Settings):
    """Which pre-trained model."""

    model: Annotated[
        str, NamesFile(suffix=".json"), Doc(f"{', or '.join(library.NAMES for library in reversed(LIBRARIES))}.")
    ] = "shapes-clip"
    pretrained: Annotated[str | None, NamesFile()] = None
    """An open_clip tag (downloaded), or a weights file (.safetensors, or a torch file of tensors). Default: OpenAI's
    weights for their architectures; the shipped model's and timm's own; else random, with a warning."""
    image_size: Annotated[int | None, Between(1, MOST_PIXELS)] = None
    """Side of the input images in pixels (default: the model's own); position embeddings are interpolated."""


@dataclass(frozen=True)
class Outline:
    """A backbone's shape without its numbers: a tower on torch's meta device, and the bytes of all weights in fp32."""

    vit: VisionTransformer | ResNet
    weights: int


def outline(name: Name, image_size: int | None = None) -> Outline | None:
    """The shape of what ``load`` would give, in a fraction of a second; nothing large is allocated, and no weights are read.

    None for architectures whose making reads numbers, which the meta device does not have.
    """
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, vit = _library(name).make(name, image_size)
    except (RuntimeError, NotImplementedError):
        return None
    return Outline(vit, sum(weight.numel() * 4 for weight in (*model.parameters(), *model.buffers())))
