"""Names that models have elsewhere."""

from __future__ import annotations

import open_clip
import pytest
import timm

from fastlift.cli import main
from fastlift.models.backbones.right_names import right_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_base_patch16_224", "timm:vit_base_patch16_224"),
        ("vit_base_patch16_224.augreg_in21k", "timm:vit_base_patch16_224.augreg_in21k"),
        ("timm/vit_base_patch16_clip_224.openai", "ViT-B-16 --pretrained openai"),
        ("ViT-B/16", "ViT-B-16"),
        ("vit-l-14", "ViT-L-14"),
        ("ViT-L/14@336px", "ViT-L-14-336"),
        ("openai/clip-vit-base-patch32", "ViT-B-32"),
        ("https://huggingface.co/openai/clip-vit-large-patch14-336", "ViT-L-14-336"),
        ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B-32 --pretrained laion2b_s34b_b79k"),
        ("google/vit-base-patch16-224", "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"),
        ("google/vit-large-patch16-224-in21k", "timm:vit_large_patch16_224.augreg_in21k"),
        ("google/siglip-base-patch16-224", "ViT-B-16-SigLIP --pretrained webli"),
        ("google/siglip-so400m-patch14-384", "ViT-SO400M-14-SigLIP-384 --pretrained webli"),
        ("google/siglip2-large-patch16-256", "ViT-L-16-SigLIP2-256 --pretrained webli"),
        ("facebook/dinov2-base", "timm:vit_base_patch14_dinov2.lvd142m"),
        ("facebook/dinov2-with-registers-small", "timm:vit_small_patch14_reg4_dinov2.lvd142m"),
        ("facebook/dinov3-vitl16-pretrain-lvd1689m", "timm:vit_large_patch16_dinov3.lvd1689m"),
    ],
)
def test_the_flags_of_a_name_from_elsewhere_are_of_a_model_that_there_is(name: str, expected: str) -> None:
    assert right_name(name) == f"--model {expected}"
    model, *rest = expected.split()
    if model.startswith("timm:"):
        own = model.removeprefix("timm:")
        assert own in timm.list_models(pretrained="." in own)
    elif rest:
        assert (model, rest[1]) in open_clip.list_pretrained()
    else:
        assert open_clip.get_pretrained_cfg(model, "openai")


@pytest.mark.parametrize("name", ["ViT-B-15", "nobody/nothing", "a.b", "", "timm/"])
def test_no_name(name: str) -> None:
    assert right_name(name) is None


def test_the_command_tells_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--model", "vit_base_patch16_224", "--epochs", "0"]) == 2
    said = capsys.readouterr().err
    assert (
        said == "fastlift: unknown model 'vit_base_patch16_224': fastlift calls it --model timm:vit_base_patch16_224\n"
    )
