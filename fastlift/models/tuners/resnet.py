"""Tuners of CLIP ResNets: all weights, biases, batch norms, or a scale and shift of the pooled feature (LIFT, appendix).

Names count parameters and modules in the order of OpenAI's CLIP, as the authors' checkpoints do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from fastlift.errors import UserError
from fastlift.models.resnet import ResNet
from fastlift.models.tuners.settings import TunerSettings
from fastlift.models.tuners.ssf import SSF

AttachResNet = Callable[[ResNet, TunerSettings], dict[str, nn.Parameter]]


def attach_resnet_full(resnet: ResNet, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Every weight, the attention pooling's too."""
    return {f"full_list.{i}": parameter for i, parameter in enumerate(resnet.tower.parameters())}


def attach_resnet_bias(resnet: ResNet, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Biases of batch norms and of the attention pooling."""
    biases = [parameter for name, parameter in resnet.tower.named_parameters() if name.endswith("bias")]
    return {f"bias_list.{i}": parameter for i, parameter in enumerate(biases)}


def attach_resnet_batchnorm(resnet: ResNet, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Scale and shift of the batch norms; their statistics stay the pre-trained ones."""
    norms = [module for module in resnet.tower.modules() if isinstance(module, nn.BatchNorm2d)]
    return {
        f"bn_list.{i}.{name}": parameter for i, norm in enumerate(norms) for name, parameter in norm.named_parameters()
    }


def attach_resnet_ssf(resnet: ResNet, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """A scale and a shift of the pooled feature."""
    ssf = SSF(resnet.width, settings.generator)
    resnet.leave = ssf
    return {f"ssf_attn.{name}": parameter for name, parameter in ssf.named_parameters()}


RESNET_TUNERS: dict[str, AttachResNet] = {
    "full": attach_resnet_full,
    "bias": attach_resnet_bias,
    "batchnorm": attach_resnet_batchnorm,
    "ssf": attach_resnet_ssf,
    "none": lambda resnet, settings: {},
}
RESNET_CONFLICTS = {
    ("full", "bias"): "full fine-tuning trains the biases already",
    ("full", "batchnorm"): "full fine-tuning trains the batch norms already",
    ("bias", "batchnorm"): "both would train the batch norms' biases",
}


def attach_to_resnet(resnet: ResNet, names: Sequence[str], settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Attach the named tuners in place.

    Raises:
        UserError: tuners of vision transformers, or such that cannot be combined.
    """
    known = ", ".join(RESNET_TUNERS)
    foreign = [name for name in names if name not in RESNET_TUNERS]
    if foreign:
        raise UserError(
            f"tuner {', '.join(foreign)} acts inside transformer blocks; for a CLIP ResNet there are: {known}"
        )
    for pair, reason in RESNET_CONFLICTS.items():
        if set(pair) <= set(names):
            raise UserError(f"tuners {pair[0]} and {pair[1]} cannot be combined: {reason}")
    trained: dict[str, nn.Parameter] = {}
    for name, attach in RESNET_TUNERS.items():
        if name in names:
            trained.update(attach(resnet, settings))
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return trained
