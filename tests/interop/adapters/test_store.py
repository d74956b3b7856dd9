"""Saved adapters: a file of tensors that knows its base model."""

import errno
import itertools
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from interop.adapters.models import build, images, output, randomise, timm_vit

import fastlift
from fastlift.system import sealed

FILE = "adapters.safetensors"


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
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    described = json.loads(sealed.read_metadata(tmp_path / FILE)["description"])
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
    assert asked == [("someone/their-adapters", FILE, "v1")]


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
    with pytest.raises(fastlift.UserError, match=r"adapters\.safetensors is missing"):
        fastlift.load_adapters(build("timm"), tmp_path)
    saved(tmp_path)
    file = tmp_path / FILE
    whole = file.read_bytes()
    model = build("timm")
    for damaged in (whole[: len(whole) // 2], whole.replace(rb"\"rank\": 4", rb"\"rank\": 5")):
        assert damaged != whole
        file.write_bytes(damaged)
        with pytest.raises(fastlift.UserError, match=r"adapters\.safetensors is damaged"):
            fastlift.load_adapters(model, tmp_path)
    fastlift.add_adapters(model)  # which were not left there
    tensors = {name: parameter.detach() for name, parameter in fastlift.tuner_parameters(model).items()}
    for texts in ({}, {"description": "{}"}, {"description": "[" * 100_000}, {"description": "[1]"}):
        sealed.write(file, tensors, texts)
        with pytest.raises(fastlift.UserError, match="no description of adapters"):
            fastlift.load_adapters(build("timm"), tmp_path)
    with pytest.raises(fastlift.UserError, match="has no adapters"):
        fastlift.save_adapters(build("timm"), tmp_path)
    with pytest.raises(fastlift.UserError, match="is a file"):
        fastlift.save_adapters(model, file)


def test_formats_that_there_are_not(tmp_path: Path) -> None:
    model = build("timm")
    fastlift.add_adapters(model, "lora", rank=2)
    for word, message in (("PEFTT", r"did you mean peft\? \(known: fastlift, peft\)"), ("pt", "did you mean peft")):
        with pytest.raises(fastlift.UserError, match=f"^unknown format '{word}'; {message}"):
            fastlift.save_adapters(model, tmp_path / "a", format=word)  # type: ignore[arg-type]
    assert not (tmp_path / "a").exists()


def rewritten(folder: Path, **changes: object) -> None:
    """Another description under a digest that holds: nothing but sense can refuse it."""
    tensors, texts = sealed.read(folder / FILE)
    described = json.loads(texts["description"])
    base = described["base"] | {key: changes.pop(key) for key in list(changes) if key in described["base"]}
    described |= {"base": base, **changes}
    sealed.write(folder / FILE, tensors, {"description": json.dumps(described)})


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
    with pytest.raises(fastlift.UserError, match=r"no description|does not fit|blocks of width"):
        fastlift.load_adapters(model, tmp_path)
    assert list(model.state_dict()) == before


def test_no_flipped_bit_is_loaded(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / FILE
    whole = file.read_bytes()
    model = build("timm")
    for number, place in enumerate(range(0, len(whole), max(1, len(whole) // 120))):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << number % 8
        file.write_bytes(flipped)
        with pytest.raises(fastlift.UserError):
            fastlift.load_adapters(model, tmp_path)
    file.write_bytes(whole)
    fastlift.load_adapters(model, tmp_path)


def test_a_save_that_fails_leaves_the_old_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a file takes its place. Of two files, a failure between them left a mixture, which was refused."""
    wanted = saved(tmp_path, layers=[0, 2])
    other = build("timm")
    randomise(fastlift.add_adapters(other, rank=8))
    replace, failed = os.replace, 0

    def full(calls: Iterator[int], at: int, *names: Path) -> None:
        if next(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*names)

    while True:
        monkeypatch.setattr(os, "replace", partial(full, itertools.count(), failed))
        try:
            fastlift.save_adapters(other, tmp_path)
            break
        except OSError:
            failed += 1
        assert [path.name for path in tmp_path.iterdir()] == [FILE]
        model = build("timm")
        fastlift.load_adapters(model, tmp_path)
        assert torch.equal(output(model, images()), wanted)
    assert failed
    assert fastlift.load_adapters(build("timm"), tmp_path).keys() == fastlift.tuner_parameters(other).keys()


def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    saved(tmp_path)
    model = build("timm")
    trained = fastlift.load_adapters(model, tmp_path)
    name, parameter = next((name, parameter) for name, parameter in trained.items() if parameter.dim() == 2)
    with torch.no_grad():
        parameter[0, 0] = torch.nan
    with pytest.raises(fastlift.UserError, match=r"not finite.*nothing is saved"):
        fastlift.save_adapters(model, tmp_path)
    tensors, texts = sealed.read(tmp_path / FILE)
    sealed.write(tmp_path / FILE, tensors | {name: parameter.detach()}, {"description": texts["description"]})
    with pytest.raises(fastlift.UserError, match=f"{name} holds numbers that are not finite"):
        fastlift.load_adapters(build("timm"), tmp_path)
