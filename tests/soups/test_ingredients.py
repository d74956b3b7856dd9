"""Which checkpoints average, and which are refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fixtures import CLASS_NAMES, Files, write_tiny_clip
from safetensors.torch import load_file
from stopping import signal_in_step

import fastlift
from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.soups.ingredients import _check_alike, gather
from fastlift.system.signals import Interrupted
from tests.soups.conftest import Made


def test_the_checkpoints_that_are_asked_for(made: Made) -> None:
    a, b = made("a", epochs=3), made("b", epochs=2)

    def stems(*folders: Path, **asked: object) -> list[str]:
        found = gather(folders, **asked)  # type: ignore[arg-type]
        return [f"{one.run.path.name} {one.path.stem}" for one in found]

    assert stems(a, b) == ["a epoch-003", "b epoch-002"]
    assert stems(a, last=2) == ["a epoch-002", "a epoch-003"]
    assert stems(a, b, names=("1", "last")) == ["a epoch-001", "a epoch-003", "b epoch-001", "b epoch-002"]
    found = gather([a, b], ["1", "2"])
    assert [one.label for one in found] == ["a@epoch-001", "a@epoch-002", "b@epoch-001", "b@epoch-002"]
    assert [one.label for one in gather([a, b])] == ["a", "b"]
    assert [one.settings for one in gather([a, b])] == [{"epochs": 3}, {"epochs": 2}]
    assert torch.equal(found[0].trained()["head.weight"], load_file(found[0].path)["head.weight"])
    told = found[3].told(0.25)
    assert told["figures"]["accuracy"] is not None
    assert (told["checkpoint"], told["weight"], told["test"] is not None) == ("epoch-002", 0.25, True)
    assert found[0].told(0.25)["figures"] is None  # nobody has tested it
    for asked, words in (
        ({"last": 4}, "--last 4: .*a has checkpoints of 3 whole epochs"),
        ({"last": 0}, "--last 0"),
        ({"last": 1}, "a soup averages two checkpoints or more"),
        ({"last": 2, "names": ("1",)}, "--checkpoint and --last: both say which"),
        ({"names": ("7", "1")}, "has no checkpoint '7'; there are: epoch-001"),
        ({}, "a soup averages two checkpoints or more"),
    ):
        with pytest.raises(UserError, match=words):
            gather([a], **asked)  # type: ignore[arg-type]


def test_a_run_that_has_not_ended_and_no_run(made: Made, settings: Config, tmp_path: Path) -> None:
    a = made("a")
    with pytest.raises(Interrupted), signal_in_step(2):
        fastlift.train(settings, output=tmp_path / "cut", ui=None)
    with pytest.raises(UserError, match="cut has not ended, and a soup is made of runs that have; it goes on with"):
        gather([a, tmp_path / "cut"])
    with pytest.raises(UserError, match="nowhere is not a run folder: there is no such folder"):
        gather([a, tmp_path / "nowhere"])
    bare = made("bare", epochs=0, tuner="none", classifier="zero_shot", init="text")
    with pytest.raises(UserError, match="bare has no checkpoint: nothing in it was trained"):
        gather([bare, a])


def test_a_changed_file_is_not_averaged_with_what_was_checked(made: Made) -> None:
    one, _ = gather([made("a"), made("b", seed=1)])
    one.path.write_bytes(one.path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"damaged|changed meanwhile"):
        one.trained()
    other = replace(one, path=gather([one.run.path.parent / "b"] * 2)[0].path)
    with pytest.raises(UserError, match="has changed meanwhile"):
        other.trained()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tuner": "lora"}, "b is another model than .*a: tuner lora, there adaptformer"),
        ({"tuner": ("adaptformer", "bias")}, "tuner adaptformer bias, there adaptformer"),
        ({"rank": 2}, r"b trains other tensors than .*a, such as tuner.adaptformer_list.0.down_proj.bias \[[12]\]"),
        ({"layers": 2}, "b trains other tensors than .*a, such as tuner.adaptformer_list.0"),
        ({"classifier": "l2"}, "b is another model than .*a: classifier l2, there cosine"),
        ({"classifier": "linear"}, "classifier linear, there cosine"),
        ({"scale": 20.0}, "scale 20.0, there 25.0"),
        ({"interpolation": "bicubic"}, "interpolation bicubic, there bilinear"),
        ({"image_size": 40}, "b has other backbone weights|b is another model"),
    ],
)
def test_another_model(made: Made, changes: dict[str, object], words: str) -> None:
    a, b = made("a"), made("b", **changes)
    with pytest.raises(UserError, match=words):
        gather([a, b])


def test_other_backbone_weights(made: Made, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, weights = write_tiny_clip(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"b has other backbone weights than .*a: they have no average"):
        gather([made("a"), made("b", pretrained=str(weights))])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((*CLASS_NAMES[:5], "a boat"), r"b has other classes \(a boat\) than .*a: they have no average"),
        ((*CLASS_NAMES[:4], CLASS_NAMES[5], CLASS_NAMES[4]), "b has the same classes in another order than .*a"),
    ],
)
def test_other_classes(made: Made, tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    file = tmp_path / "names.txt"
    file.write_text("".join(f"class{label} {name}\n" for label, name in enumerate(names)))
    with pytest.raises(UserError, match=words):
        gather([made("a"), made("b", class_names=str(file))])


def test_masks_of_other_weights(made: Made) -> None:
    """By another seed, or such as a checkpoint of LIFT+ gives."""
    a = made("a", tuner="mask", mask_ratio=0.1)
    with pytest.raises(UserError, match=r"b is another model than .*a: mask_seed 1, there 0"):
        gather([a, made("b", tuner="mask", mask_ratio=0.1, mask_seed=1)])
    first, second = gather([a, made("c", tuner="mask", mask_ratio=0.1, seed=1)])  # the same places, whatever the seed
    given = {"tuner.x.index": torch.tensor([1, 2])}
    first = replace(first, masks=given)
    _check_alike(first, replace(second, masks=dict(given)))
    with pytest.raises(UserError, match="their masks differ, so their values have no average"):
        _check_alike(first, replace(second, masks={"tuner.x.index": torch.tensor([1, 3])}))


def test_what_trains_alike_may_differ_in_all_else(made: Made, tiny_clip: Files) -> None:
    """A size that is given where the other follows the classes, the loss, the classifier's start, crops."""
    a = made("a")
    b = made("b", rank=1, loss="CE", init="class_mean", augmentation="minimalist", lr=0.02)
    assert gather([a, b])[1].settings["loss"] == "CE"
