"""Tuners of CLIP ResNets: all weights, biases, batch norms, or a scale and shift of the pooled feature (LIFT, appendix).

Names count parameters and modules in the order of OpenAI's CLIP, as the authors' checkpoints do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from fastlift.models.resnet import ResNet
from fastlift.models.tuners.base import NoTuner, TunerContext, named
from fastlift.models.tuners.ssf import SSF
from fastlift.settings import Settings


class ResNetTuner(Settings):
    """As ``Tuner``, for CLIP ResNets."""

    NAME: ClassVar[str]
    PREFIX: ClassVar[str]
    CONFLICTS: ClassVar[Mapping[str, str]] = {}

    def build(self, resnet: ResNet, context: TunerContext) -> dict[str, nn.Parameter]:
        """Put the tuner's modules in place; gives what trains, under the names of the authors' checkpoints."""
        raise NotImplementedError


class ResNetFull(ResNetTuner):
    """Every weight, the attention pooling's too."""

    NAME = "full"
    PREFIX = "full_list"
    CONFLICTS: ClassVar[Mapping[str, str]] = {
        "bias": "full fine-tuning trains the biases already",
        "batchnorm": "full fine-tuning trains the batch norms already",
    }

    def build(self, resnet: ResNet, context: TunerContext) -> dict[str, nn.Parameter]:
        return {f"{self.PREFIX}.{i}": parameter for i, parameter in enumerate(resnet.tower.parameters())}


class ResNetBias(ResNetTuner):
    """Biases of batch norms and of the attention pooling."""

    NAME = "bias"
    PREFIX = "bias_list"
    CONFLICTS: ClassVar[Mapping[str, str]] = {"batchnorm": "both would train the batch norms' biases"}

    def build(self, resnet: ResNet, context: TunerContext) -> dict[str, nn.Parameter]:
        biases = [parameter for name, parameter in resnet.tower.named_parameters() if name.endswith("bias")]
        return {f"{self.PREFIX}.{i}": parameter for i, parameter in enumerate(biases)}


class ResNetBatchNorm(ResNetTuner):
    """Scale and shift of the batch norms; their statistics stay the pre-trained ones."""

    NAME = "batchnorm"
    PREFIX = "bn_list"

    def build(self, resnet: ResNet, context: TunerContext) -> dict[str, nn.Parameter]:
        norms = [module for module in resnet.tower.modules() if isinstance(module, nn.BatchNorm2d)]
        return {key: value for i, norm in enumerate(norms) for key, value in named(f"{self.PREFIX}.{i}", norm).items()}


class ResNetSSF(ResNetTuner):
    """A scale and a shift of the pooled feature."""

    NAME = "ssf"
    PREFIX = "ssf_attn"

    def build(self, resnet: ResNet, context: TunerContext) -> dict[str, nn.Parameter]:
        ssf = SSF(resnet.width, context.generator)
        resnet.post_pool = ssf
        return named(self.PREFIX, ssf)


# In the order of attaching.
RESNET_TUNERS: dict[str, type[ResNetTuner] | type[NoTuner]] = {
    kind.NAME: kind for kind in (ResNetFull, ResNetBias, ResNetBatchNorm, ResNetSSF, NoTuner)
}
