"""CLIP ResNets: the same features as open_clip's, and their four tuners."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixtures import CLASS_COUNTS, CLASS_NAMES, TINY_CONFIG, train_on
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn

import fastlift
from fastlift.models import backbones
from fastlift.models.lift import LiftModel
from fastlift.models.text.features import text_features
from fastlift.system.device import using_device
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

CONFIG: dict[str, Any] = TINY_CONFIG | {
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
}
LABELS = torch.arange(8) % len(CLASS_NAMES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lively random weights: batch norms with statistics of their own."""
    torch.manual_seed(3)
    model = CLIP(**CONFIG)
    for module in model.visual.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_var, 0.5), (module.weight, 0.5), (module.bias, -0.3)):
                nn.init.uniform_(tensor, low, low + 0.8)  # type: ignore[arg-type]
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("resnet") / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def build(weights: Path, tuner: Any, **settings: Any) -> LiftModel:
    return fastlift.create_model(CONFIG, pretrained=weights, class_names=CLASS_NAMES, tuner=tuner, **settings)


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def test_features_are_open_clips_and_text_starts_need_no_projection(weights: Path) -> None:
    backbone = backbones.load(CONFIG, weights)
    assert backbone.text is not None
    assert backbone.projection is None
    expected = backbone.text.model.encode_image(images())  # type: ignore[operator]
    model = build(weights, "none")
    torch.testing.assert_close(model.features(images()), expected)
    start = F.normalize(text_features(backbone.text, CLASS_NAMES), dim=1)
    torch.testing.assert_close(model.classifier.weight.detach(), start)  # type: ignore[operator]
    assert model.preprocessing.image_size == 64
    zero = build(weights, "none", classifier="zero_shot")(images())
    expected = F.normalize(expected, dim=1) @ start.T * backbone.logit_scale
    torch.testing.assert_close(zero, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_features_on_every_device(weights: Path, device: torch.device, dtype: torch.dtype, error: float) -> None:
    """As in fp32 on the CPU; a run has fp32 convolutions in fp32 on a GPU too."""
    model = build(weights, "none")
    exact = model.features(images())
    model.set_compute_dtype(dtype)
    model.to(device)
    with using_device(device):
        found = model.features(images().to(device, dtype))
    assert found.dtype is dtype
    assert (found.cpu().float() - exact).norm() < error * exact.norm()


@pytest.mark.parametrize("tuner", ["full", "bias", "batchnorm", "ssf", ("bias", "ssf"), ("batchnorm", "ssf")])
def test_it_learns_only_it_moves_and_it_is_kept(weights: Path, tuner: Any) -> None:
    model = build(weights, tuner)
    if "ssf" not in tuner:
        torch.testing.assert_close(model.features(images()), build(weights, "none").features(images()))
    model.train()  # a model around it may say so: the statistics stay
    model.classifier.requires_grad_(False)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    some = Learner(
        model, fastlift.losses.build("LA", CLASS_COUNTS), OptimizerSettings(lr=0.001 if tuner == "full" else 0.01)
    )
    values = train_on(some, images(), LABELS, 5)
    assert values[-1] < values[0] - 1e-3
    intended = {id(parameter) for parameter in model.tuner_parameters.values()}
    after = dict(model.named_parameters()) | dict(model.named_buffers())
    moved = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
    assert {id(after[key]) for key in moved} <= intended
    assert len(moved) >= 0.9 * len(intended)  # key biases of the pooling have no gradient
    other = build(weights, tuner, seed=8)
    other.load_trained({key: parameter.detach() for key, parameter in model.trained().items()})
    torch.testing.assert_close(other(images()), model(images()), rtol=0, atol=0)


def test_names_are_the_authors(weights: Path) -> None:
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in backbones.load(CONFIG, weights).vit.modules())
    assert list(build(weights, "ssf").tuner_parameters) == ["ssf_attn.scale", "ssf_attn.shift"]
    assert len(build(weights, "batchnorm").tuner_parameters) == 2 * norms
    assert len(build(weights, "bias").tuner_parameters) == norms + 4  # and the pooling's four products
    assert next(iter(build(weights, "full").tuner_parameters)) == "full_list.0"


def test_another_image_size_interpolates_the_poolings_positions(weights: Path) -> None:
    vit = backbones.load(CONFIG, weights, image_size=96).vit
    assert vit(torch.zeros(1, 3, 96, 96)).shape == (1, 24)


def test_bf16_by_autocast(weights: Path) -> None:
    model = build(weights, ("bias", "ssf"))
    exact = model.features(images())
    model.set_compute_dtype(torch.bfloat16)
    rounded = model.features(images())
    assert rounded.dtype == torch.bfloat16
    assert F.cosine_similarity(rounded.float(), exact).min() > 0.99


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tuner": "adaptformer"}, "acts inside transformer blocks.*full, bias, batchnorm, ssf"),
        ({"tuner": ("bias", "batchnorm")}, "cannot be combined"),
        ({"tuner": "bias", "layers": 2}, "no transformer blocks"),
    ],
)
def test_mistakes(weights: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(fastlift.UserError, match=message):
        build(weights, **settings)


def test_resnet_tuners_do_not_fit_a_vit(tiny_clip: tuple[Path, Path]) -> None:
    with pytest.raises(fastlift.UserError, match="is for CLIP ResNets"):
        fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, tuner="batchnorm")
