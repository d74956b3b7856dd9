"""Saved adapters: a folder of safetensors and JSON that knows its base model."""

import json
from pathlib import Path

import pytest
import torch
from adapters.models import build, images, output, randomise, timm_vit

import fastlift


def saved(folder: Path, name: str = "timm", **options: object) -> torch.Tensor:
    model = build(name)
    randomise(fastlift.add_adapters(model, rank=4, **options))
    fastlift.save_adapters(model, folder)
    return output(model, images())


@pytest.mark.parametrize("name", ["open_clip", "timm", "clip_both", "vit_classifier"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    wanted = saved(tmp_path / "a", name, layers=[0, 2])
    model = build(name)
    trained = fastlift.load_adapters(model, tmp_path / "a")
    assert torch.equal(output(model, images()), wanted)
    assert all(parameter.requires_grad for parameter in trained.values())
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(1.0)
    fastlift.load_adapters(model, tmp_path / "a")  # into adapters that are there already
    assert torch.equal(output(model, images()), wanted)


def test_the_folder_is_plain(tmp_path: Path) -> None:
    saved(tmp_path, layers=2)
    assert {path.name for path in tmp_path.iterdir()} == {"adapters.json", "adapters.safetensors"}
    described = json.loads((tmp_path / "adapters.json").read_text())
    assert (described["tuner"], described["rank"], described["layers"]) == ("adaptformer", 4, [1, 2])
    assert described["base"]["width"] == 32
    assert described["base"]["depth"] == 3
    assert described["base"]["name"] == "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def test_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = saved(tmp_path)
    asked = []

    def download(repository: str, name: str, revision: str | None = None) -> str:
        asked.append((repository, name, revision))
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    model = build("timm")
    fastlift.load_adapters(model, "someone/their-adapters", revision="v1")
    assert torch.equal(output(model, images()), wanted)
    assert asked == [("someone/their-adapters", f"adapters.{kind}", "v1") for kind in ("json", "safetensors")]


def test_a_base_in_another_dtype_is_the_same_base(tmp_path: Path) -> None:
    saved(tmp_path)
    fastlift.load_adapters(build("timm").to(torch.bfloat16), tmp_path)


def test_another_model_is_refused_and_left_alone(tmp_path: Path) -> None:
    saved(tmp_path)
    other = build("timm", seed=5)
    before = list(other.state_dict())
    with pytest.raises(fastlift.UserError, match=r"trained on vit_tiny.*other weights \(block 0 differs\)"):
        fastlift.load_adapters(other, tmp_path)
    assert list(other.state_dict()) == before
    assert all(parameter.requires_grad for parameter in other.parameters())
    with pytest.raises(
        fastlift.UserError, match="3 blocks of width 32; this VisionTransformer has 2 blocks of width 32"
    ):
        fastlift.load_adapters(timm_vit(depth=2), tmp_path)


def test_adapters_that_differ_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    model = build("timm")
    fastlift.add_adapters(model, rank=8)
    with pytest.raises(fastlift.UserError, match=r"rank 4 .* this model has adaptformer of rank 8"):
        fastlift.load_adapters(model, tmp_path)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    for source in (tmp_path / "nowhere", "a/b/c"):
        with pytest.raises(fastlift.UserError, match="neither a folder nor the id"):
            fastlift.load_adapters(build("timm"), source)
    with pytest.raises(fastlift.UserError, match=r"adapters\.json is missing"):
        fastlift.load_adapters(build("timm"), tmp_path)
    saved(tmp_path)
    weights, description = tmp_path / "adapters.safetensors", tmp_path / "adapters.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(fastlift.UserError, match="not a safetensors file"):
        fastlift.load_adapters(build("timm"), tmp_path)
    weights.write_bytes(whole)
    description.write_text(description.read_text().replace('"rank": 4', '"rank": 5'))
    model = build("timm")
    with pytest.raises(fastlift.UserError, match="does not fit"):
        fastlift.load_adapters(model, tmp_path)
    fastlift.add_adapters(model)  # which were not left there
    description.write_text("{}")
    with pytest.raises(fastlift.UserError, match="not a description of adapters"):
        fastlift.load_adapters(build("timm"), tmp_path)
    with pytest.raises(fastlift.UserError, match="has no adapters"):
        fastlift.save_adapters(build("timm"), tmp_path)
    with pytest.raises(fastlift.UserError, match="is a file"):
        fastlift.save_adapters(model, weights)
