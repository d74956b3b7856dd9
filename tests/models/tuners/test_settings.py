"""Tuners' settings: each tuner declares its own; together they are one class, with the papers' sizes where none is given."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import torch
from fixtures import CLASS_NAMES, Files, with_a_line
from torch import nn
from typing_extensions import Doc

import fastlift
from fastlift.errors import UserError
from fastlift.models import backbones, tuners
from fastlift.models.tuners import TUNERS, TunerSettings
from fastlift.models.tuners.base import RankSettings, Tuner, TunerContext, has_tuner
from fastlift.models.tuners.prompts import PromptSettings
from fastlift.models.vit import Block, Tower
from fastlift.settings import Acts, Between, check_effects, converted, marker

pytestmark = pytest.mark.usefixtures("weights_read_once")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank: expected a whole number from 1 to"),
        ({"lora_rank": -1}, "lora_rank: expected"),
        ({"prompt_length": 0}, "prompt_length: expected"),
        ({"mask_ratio": 1.5}, r"mask_ratio: expected a share in \(0, 1\], got 1.5"),
        ({"mask_seed": -1}, "mask_seed: expected a whole number from 0"),
        ({"sizes": "lfit"}, "did you mean lift"),
        ({"tuner": ("bais",)}, "unknown tuner 'bais'; did you mean bias"),
        ({"tuner": ("batchnorm", "full")}, "already"),
        ({"ranc": 3}, "did you mean rank"),
    ],
)
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        converted(TunerSettings, values)


def test_the_groups_are_those_of_the_tuners(tiny_clip: Files) -> None:
    """A tuner has a rank, or prompts, exactly where that size changes how much it trains."""

    def trained(name: str, **sizes: int) -> int:
        model = fastlift.create_model(
            tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, init="random", tuner=name, **sizes
        )
        return sum(parameter.numel() for parameter in model.tuner_parameters.values())

    for name in TUNERS:
        assert has_tuner(RankSettings, [name]) == (trained(name, rank=1) != trained(name, rank=2))
        assert has_tuner(PromptSettings, [name]) == (trained(name, prompt_length=1) != trained(name, prompt_length=2))


def test_resolved(tiny_clip: Files) -> None:
    vit = backbones.load(*tiny_clip).vit
    settings = TunerSettings(tuner=("lora", "mask"), rank=5, layers=2, sizes="lift_plus")
    found = settings.resolve(settings.context(vit, 64))
    assert (found.rank, found.lora_rank, found.layers, found.prompt_length) == (5, 5, (1, 2), 32)
    assert found.mask_ratio == pytest.approx(64 / (2 * (12 * 48 + 9)))
    assert found.resolve(found.context(vit, 64)) == found


@dataclass(frozen=True)
class ToySettings(Tuner):
    """x -> x + mean of some learned vectors, after the MLP: what the file of a new tuner holds."""

    NAME = "toy"
    PREFIX = "toys"

    toy_count: Annotated[int, Between(1), Acts("how many vectors (tuner toy)", lambda tuner: "toy" in tuner)] = 2
    """Learned vectors."""

    def attach_to_block(self, tower: Tower, block: Block, context: TunerContext) -> nn.Module:
        block.post_mlp = Toy(self.toy_count, tower.width)
        return block.post_mlp


class Toy(nn.Module):
    """Its module."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.arange(float(width)).repeat(count, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.vectors.mean(dim=0)


def test_a_new_tuner_is_a_file_and_a_line(tiny_clip: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package with one more base of ``TunerSettings`` knows the tuner, its option, and when that acts."""
    grown = with_a_line(tuners, "    NoTuner,\n    ChosenTuners,", "    ToySettings,", ToySettings, monkeypatch)
    settings = converted(grown.TunerSettings, {"tuner": ["toy", "lora"], "toy_count": 3, "layers": 1})
    vit = backbones.load(*tiny_clip).vit
    before = vit(torch.ones(1, 3, 32, 32))
    trained = settings.attach(vit, settings.context(vit, 6))
    assert trained["toys.2.vectors"].shape == (3, 48)
    assert {name.split(".")[0] for name in trained} == {"toys", "lora_list"}
    assert not torch.allclose(vit(torch.ones(1, 3, 32, 32)), before, atol=1e-2)
    values, defaults = grown.TunerSettings(toy_count=3).values(), grown.TunerSettings().values()
    with pytest.raises(UserError, match="toy_count 3 would change nothing here"):
        check_effects([grown.TunerSettings], values, defaults, ["toy_count"])
    with pytest.raises(UserError, match="toy_count: expected more than 0"):
        grown.TunerSettings(toy_count=0)
    told = marker(grown.TunerSettings, "tuner", Doc)
    assert told is not None
    assert "ssf_ln, toy, none; several may be combined" in told.documentation


def test_messages_name_the_tuners_by_their_declarations() -> None:
    meanings = {name: marker(TunerSettings, name, Acts) for name in ("rank", "lora_rank", "prompt_length")}
    assert [acts and acts.meaning.partition("(")[2] for acts in meanings.values()] == [
        "adaptformer, adapter, lora, lora_mlp)",
        "tuner lora or lora_mlp)",
        "tuner vpt_shallow or vpt_deep)",
    ]
