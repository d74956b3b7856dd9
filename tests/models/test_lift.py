"""The model as users build it: where it starts, what trains, how many parameters, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from fixtures import CLASS_NAMES, Files

import fastlift
from fastlift.models import backbones
from fastlift.models.lift import LiftModel
from fastlift.models.text.features import text_features
from fastlift.models.tuners.base import adaptive_rank


def build(tiny_clip: Files, **settings: Any) -> LiftModel:
    return fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, **settings)


def test_training_starts_at_the_frozen_model(tiny_clip: Files) -> None:
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(
        build(tiny_clip).features(images), build(tiny_clip, tuner="none").features(images), rtol=1e-5, atol=1e-6
    )


def test_the_classifier_starts_at_the_text(tiny_clip: Files) -> None:
    backbone = backbones.load(*tiny_clip)
    assert backbone.text is not None
    assert backbone.projection is not None
    features = text_features(backbone.text, CLASS_NAMES)
    expected = F.normalize(features @ backbone.projection.T, dim=1)
    torch.testing.assert_close(build(tiny_clip).classifier.weight.detach(), expected)


def test_only_tuner_and_classifier_train(tiny_clip: Files) -> None:
    model = build(tiny_clip, rank=5)
    wanted = {id(parameter) for parameter in model.trained().values()}
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == wanted
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert {id(parameter) for parameter in model.parameters() if parameter.grad is not None} == wanted


@pytest.mark.parametrize(("layers", "blocks"), [(None, {0, 1, 2}), (1, {2}), (2, {1, 2}), ([0, 2], {0, 2})])
def test_layers(tiny_clip: Files, layers: Any, blocks: set[int]) -> None:
    model = build(tiny_clip, layers=layers)
    assert {int(name.split(".")[1]) for name in model.tuner_parameters} == blocks


def test_full_fine_tuning_is_all_weights_of_the_blocks(tiny_clip: Files) -> None:
    model = build(tiny_clip, tuner="full", layers=1)
    block = sum(parameter.numel() for parameter in model.vit.block(2).parameters())
    assert sum(parameter.numel() for parameter in model.tuner_parameters.values()) == block
    assert "block_tuned.2.attn.in_proj_weight" in model.tuner_parameters


def test_full_and_adaptformer_combine(tiny_clip: Files) -> None:
    model = build(tiny_clip, tuner=("adaptformer", "full"))
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.trained().values())


@pytest.mark.parametrize(
    ("classes", "blocks", "rank"), [(1000, 12, 32), (365, 12, 8), (8142, 12, 256), (100, 12, 4), (3, 12, 1)]
)
def test_adaptive_rank_of_the_paper(classes: int, blocks: int, rank: int) -> None:
    assert adaptive_rank(classes, blocks) == rank


def test_parameter_counts_of_the_paper() -> None:
    """ViT-B/16 with 1000 classes: 617,868 parameters in the tuner, 768,000 in the classifier."""
    with pytest.warns(UserWarning, match="backbone is random"):
        model = fastlift.create_model("ViT-B-16-quickgelu", class_names=list(map(str, range(1000))), init="random")
    assert sum(parameter.numel() for parameter in model.tuner_parameters.values()) == 617_868
    assert sum(parameter.numel() for parameter in model.head_parameters.values()) == 768_000


def test_seeds_fix_random_values(tiny_clip: Files) -> None:
    one, same, other = (build(tiny_clip, init="random", seed=seed).trained() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    name = "tuner.adaptformer_list.0.down_proj.weight"
    assert not torch.equal(one[name], other[name])


def test_state_goes_through_the_authors_form(tiny_clip: Files, tmp_path: Path) -> None:
    model, other = build(tiny_clip, seed=3), build(tiny_clip, seed=4)
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.normal_()
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(fastlift.compat.lift_state(model), path)
    fastlift.compat.load_lift_checkpoint(other, path)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(other(images), model(images), rtol=0, atol=0)


def test_checkpoints_that_do_not_fit_are_named(tiny_clip: Files, tmp_path: Path) -> None:
    state = fastlift.compat.lift_state(build(tiny_clip, rank=4))
    state["tuner"].pop("adaptformer_list.0.scale")
    state["head"]["extra"] = torch.zeros(2)
    with pytest.raises(
        fastlift.UserError, match=r"(?s)missing tuner.adaptformer_list.0.scale.*not in the model: head.extra"
    ):
        fastlift.compat.load_lift_checkpoint(build(tiny_clip, rank=4), state)
    with pytest.raises(fastlift.UserError, match=r"\[4, 48\] in the file, \[2, 48\] in the model"):
        fastlift.compat.load_lift_checkpoint(
            build(tiny_clip, rank=2), fastlift.compat.lift_state(build(tiny_clip, rank=4))
        )
    path = tmp_path / "bad.pth.tar"
    path.write_text("nonsense")
    with pytest.raises(fastlift.UserError, match="could not be read"):
        fastlift.compat.load_lift_checkpoint(build(tiny_clip), path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tuner": "adaptfromer"}, "did you mean adaptformer"),
        ({"classifier": "cosin"}, "did you mean cosine"),
        ({"rank": 0}, "rank"),
        ({"layers": 4}, "1 to 3"),
        ({"layers": [7]}, "0 to 2"),
        ({"init": "txt"}, "did you mean text"),
        ({"init": torch.zeros(6, 48), "classifier": "text"}, "no weight of its own"),
        ({"scale": 0.0}, "scale: expected more than 0"),
        ({"classifier": "zero_shot"}, "does not train"),
        ({"prompt": "an image"}, "template"),
    ],
)
def test_mistakes_are_explained(tiny_clip: Files, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(fastlift.UserError, match=message):
        build(tiny_clip, **settings)


def test_models_without_text_need_another_init(tmp_path: Path) -> None:
    name, weights = "timm:vit_tiny_patch16_224", tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), weights)
    with pytest.raises(fastlift.UserError, match="no text tower"):
        fastlift.create_model(name, pretrained=weights, class_names=CLASS_NAMES)
    model = fastlift.create_model(name, pretrained=weights, class_names=CLASS_NAMES, init="random")
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 6)
