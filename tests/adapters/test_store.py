"""Saved adapters: a folder of safetensors and JSON that knows its base model."""

import json
import re
from pathlib import Path

import pytest
import torch
from adapters.models import build, images, output, randomise, timm_vit

import fastlift
from fastlift import sealed
from fastlift.adapters import store


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
    fastlift.load_adapters(model, "hub:someone/their-adapters", revision="v1")
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


@pytest.mark.parametrize(
    "source", ["missing/folder", "missing", "a/b/c", "./a/b", "~/a", "hub:", "hub:a", "hub:a/../b"]
)
def test_the_hub_is_asked_for_what_is_named_as_its_own_alone(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there is refused at once; the client would try for a minute."""

    def download(*arguments: object, **options: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(fastlift.UserError, match=rf"^adapters {re.escape(source)}: expected"):
        fastlift.load_adapters(build("timm"), source)


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(fastlift.UserError, match="a folder has no revision 'v1'"):
        fastlift.load_adapters(build("timm"), tmp_path, revision="v1")


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(fastlift.UserError, match=r"adapters\.json is missing"):
        fastlift.load_adapters(build("timm"), tmp_path)
    saved(tmp_path)
    weights, description = tmp_path / "adapters.safetensors", tmp_path / "adapters.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(fastlift.UserError, match=r"adapters\.safetensors is damaged"):
        fastlift.load_adapters(build("timm"), tmp_path)
    weights.write_bytes(whole)
    description.write_text(description.read_text().replace('"rank": 4', '"rank": 5'))
    model = build("timm")
    with pytest.raises(fastlift.UserError, match="was changed"):
        fastlift.load_adapters(model, tmp_path)
    fastlift.add_adapters(model)  # which were not left there
    description.write_text("{}")
    with pytest.raises(fastlift.UserError, match="not a description of adapters"):
        fastlift.load_adapters(build("timm"), tmp_path)
    with pytest.raises(fastlift.UserError, match="has no adapters"):
        fastlift.save_adapters(build("timm"), tmp_path)
    with pytest.raises(fastlift.UserError, match="is a file"):
        fastlift.save_adapters(model, weights)


def rewritten(folder: Path, **changes: object) -> None:
    """Another description, whose digest stands in the weights' file as it should: nothing but sense can refuse it."""
    file = folder / "adapters.json"
    described = json.loads(file.read_text())
    base = described["base"] | {key: changes.pop(key) for key in list(changes) if key in described["base"]}
    described |= {"base": base, **changes}
    file.write_text(json.dumps(described))
    tensors, _ = sealed.read(folder / "adapters.safetensors")
    sealed.write(folder / "adapters.safetensors", tensors, {"description": store._digest(described)})


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 10**12},
        {"rank": 2**31 - 1},
        {"rank": 5},
        {"rank": "4"},
        {"rank": True},
        {"layers": [0, 10**12]},
        {"layers": [0, 1]},
        {"layers": []},
        {"layers": 2},
        {"layers": [[0]]},
        {"tuner": ["adaptformer"]},
        {"tuner": "adapter"},
        {"format": 99},
        {"base": None},
        {"base": []},
        {"width": 10**12},
        {"width": "32"},
        {"depth": -1},
        {"name": 3},
        {"class": None},
        {"mlp_samples": []},
        {"mlp_samples": [[10**400]] * 3},
        {"mlp_samples": [["a"]] * 3},
        {"mlp_samples": [{}] * 3},
    ],
    ids=str,
)
def test_descriptions_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    """Before anything of the size that they name is made."""
    saved(tmp_path)
    rewritten(tmp_path, **changes)
    model = build("timm")
    before = list(model.state_dict())
    with pytest.raises(fastlift.UserError, match=r"not a description|not JSON|does not fit|blocks of width"):
        fastlift.load_adapters(model, tmp_path)
    assert list(model.state_dict()) == before


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["adapters.safetensors", "adapters.json"])
def test_no_flipped_bit_is_loaded(tmp_path: Path, name: str) -> None:
    """Spaces of the JSON and digits behind a float's last apart, which say nothing."""
    saved(tmp_path)
    file = tmp_path / name
    whole = file.read_bytes()
    model = build("timm")
    places = [i for i in range(len(whole)) if name.endswith("safetensors") or whole[i] not in b" \n"]
    for number, place in enumerate(places[:: max(1, len(places) // 60)]):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << number % 8
        file.write_bytes(flipped)
        if name.endswith("json") and same_json(flipped, whole):
            continue
        with pytest.raises(fastlift.UserError):
            fastlift.load_adapters(model, tmp_path)
    file.write_bytes(whole)
    fastlift.load_adapters(model, tmp_path)


def test_halves_of_two_saves_are_refused(tmp_path: Path) -> None:
    """As a kill between the two files leaves them."""
    saved(tmp_path, layers=[0, 2])
    kept = (tmp_path / "adapters.json").read_text()
    saved(tmp_path, layers=[0, 1])
    (tmp_path / "adapters.json").write_text(kept)
    with pytest.raises(
        fastlift.UserError, match=r"adapters\.json is not the one that adapters\.safetensors was saved with"
    ):
        fastlift.load_adapters(build("timm"), tmp_path)


def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    saved(tmp_path)
    model = build("timm")
    trained = fastlift.load_adapters(model, tmp_path)
    name, parameter = next((name, parameter) for name, parameter in trained.items() if parameter.dim() == 2)
    with torch.no_grad():
        parameter[0, 0] = torch.nan
    with pytest.raises(fastlift.UserError, match=r"not finite.*nothing is saved"):
        fastlift.save_adapters(model, tmp_path)
    tensors, texts = sealed.read(tmp_path / "adapters.safetensors")
    sealed.write(
        tmp_path / "adapters.safetensors", tensors | {name: parameter.detach()}, {"description": texts["description"]}
    )
    with pytest.raises(fastlift.UserError, match=f"{name} holds numbers that are not finite"):
        fastlift.load_adapters(build("timm"), tmp_path)
