"""Settings without an effect are refused with the reason; beside what they go with they pass."""

from pathlib import Path
from typing import Any

import pytest

import fastlift
from fastlift import recipes
from fastlift.commands import export, predict
from fastlift.commands.train import run
from fastlift.config import SECTION_OF, SECTIONS, Config
from fastlift.errors import UserError
from fastlift.models.tuners import TUNERS
from fastlift.settings import Acts, marker

# Setting and value -> where it would change nothing, and where it acts.
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "schedule": ("linear", {}, {"augmentation": "minimalist"}),
    "rank": (8, {"tuner": ("bias", "ssf_ln")}, {"tuner": ("bias", "lora")}),
    "lora_rank": (2, {"tuner": "adapter"}, {"tuner": ("adapter", "lora")}),
    "layers": (2, {"tuner": "none"}, {"tuner": "layernorm"}),
    "prompt_length": (3, {}, {"tuner": "vpt_deep"}),
    "mask_ratio": (0.1, {"tuner": "full"}, {"tuner": "mask"}),
    "mask_seed": (1, {}, {"classifier": "text", "text_tuner": "mask"}),
    "scale": (30.0, {"classifier": "linear"}, {"classifier": "linear", "loss": "LDAM"}),
    "init": ("random", {"classifier": "text"}, {"classifier": "l2"}),
    "prompt": ("a {}", {"init": "class_mean"}, {"classifier": "text"}),
    "text_rank": (2, {"classifier": "text", "text_tuner": "coop"}, {"classifier": "text", "text_tuner": "lora"}),
    "text_layers": (
        1,
        {"classifier": "text", "text_tuner": "projection"},
        {"classifier": "text", "text_tuner": "bias"},
    ),
    "text_prompt_length": (3, {}, {"classifier": "text", "text_tuner": "vpt_shallow"}),
    "coop_length": (8, {}, {"classifier": "text", "text_tuner": "coop"}),
    "coop_position": ("front", {}, {"classifier": "text", "text_tuner": "coop"}),
    "coop_init": ("prompt", {}, {"classifier": "text", "text_tuner": "coop"}),
    "clip_adapter_rank": (2, {}, {"classifier": "text", "text_tuner": "clip_adapter"}),
    "tte_crops": (5, {"tte": "tencrop"}, {"tte": "random"}),
    "optimizer": ("adamw", {"epochs": 0}, {"epochs": 1}),
    "momentum": (0.5, {"optimizer": "adamw"}, {}),
    "betas": ((0.8, 0.99), {}, {"optimizer": "adamw"}),
    "eps": (1e-6, {}, {"optimizer": "adamw"}),
    "clip_grad": (1.0, {"epochs": 0}, {"epochs": 1}),
    "lr_schedule": ("step", {"epochs": 0}, {"epochs": 1}),
    "warmup_epochs": (0.5, {"epochs": 0}, {"epochs": 1}),
    "min_lr_ratio": (0.1, {"epochs": 0}, {"epochs": 1}),
    "ema": (0.9, {"epochs": 0}, {"epochs": 1}),
    "on_nonfinite": ("skip", {"epochs": 0}, {"epochs": 1}),
    "log": (("csv",), {"epochs": 0}, {"epochs": 1}),
    "init_from": ("runs/other", {"epochs": 0}, {"epochs": 1}),
    "train_only": ("classifier", {"init_from": "runs/other", "tuner": "none"}, {"init_from": "runs/other"}),
    "soup_factors": ((0, 1), {"epochs": 0}, {"epochs": 1}),
    "soup_keep": (0.5, {}, {"soup_factors": (0, 1)}),
    "eval_every": (1.0, {"epochs": 0}, {"epochs": 1}),
    "best_by": ("accuracy", {}, {"eval_every": 1}),
    "patience": (3, {}, {"eval_every": 1}),
    "mixup": (0.2, {"epochs": 0}, {"epochs": 1}),
    "cutmix": (1.0, {"epochs": 0}, {"epochs": 1}),
    "label_smoothing": (0.1, {"epochs": 0}, {"epochs": 1}),
    "shard_classifier": (True, {"epochs": 0}, {"epochs": 1}),
    "sampling": ("balanced", {"epochs": 0}, {"epochs": 1}),
    "augment": ("trivialaugment", {"epochs": 0}, {"epochs": 1}),
    "randaugment_ops": (3, {"augment": "trivialaugment"}, {"augment": "randaugment"}),
    "randaugment_magnitude": (5, {}, {"augment": "randaugment"}),
    "progressive_sizes": ((0.5, 1.0), {"epochs": 0}, {"epochs": 2}),
    "expand": (8, {"tte": "random"}, {"tte": "fivecrop"}),
    **{
        f"{kind}_column": (
            "x",
            {"dataset": "list", "train_list": "a.txt"},
            {"dataset": "list", "train_list": "a.CSV.gz"},
        )
        for kind in ("image", "label", "split")
    },
    "subset_seed": (1, {}, {"max_per_class": 5}),
    "imbalance_ratio": (50.0, {"dataset": "cifar100_ir50"}, {"dataset": "shapes_lt"}),
    "head_share": (0.9, {"dataset": "imagenet_lt"}, {"dataset": "cifar100_ir50"}),
    "largest_class": (300, {"dataset": "cifar100_ir50"}, {"dataset": "shapes_lt"}),
    "split_seed": (1, {}, {"val_share": 0.1}),
    "data_cache": ("copies", {"data_root": "images"}, {"data_root": "s3://bucket/images"}),
    "data_cache_gb": (1.0, {"data_root": "images"}, {"data_root": "https://host/images"}),
    "host_decode": (0.5, {"executor": "torchvision"}, {"executor": "dali"}),
    "hw_decoder_load": (1.0, {"executor": "torchvision"}, {"executor": "auto"}),
}


def test_the_cases_are_all_there_is() -> None:
    conditional = {name for name, section in SECTION_OF.items() if marker(SECTIONS[section], name, Acts) is not None}
    assert CASES.keys() == conditional


@pytest.mark.parametrize("name", CASES)
def test_a_setting_acts_or_is_refused(name: str) -> None:
    value, idle, acting = CASES[name]
    with pytest.raises(UserError, match=rf"^{name} .* would change nothing here"):
        Config().override(**idle, **{name: value})
    with pytest.raises(UserError, match="would change nothing"):
        recipes.lift(**idle, **{name: value})
    changed = Config().override(**acting, **{name: value})
    assert changed.flat()[name] == value
    assert Config().merged(**idle, **{name: value}).flat()[name] == value
    Config().override(**idle, **{name: Config().flat()[name]})  # the default says nothing


@pytest.mark.parametrize(
    ("name", "value", "idle"),
    [
        ("coop_length", 8, {"classifier": "text", "text_tuner": "coop", "coop_init": "prompt"}),
        ("prompt", "a {}", {"classifier": "text", "text_tuner": "coop"}),
        ("layers", 2, {"tuner": "vpt_shallow"}),
    ],
)
def test_what_another_choice_makes_idle(name: str, value: Any, idle: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="would change nothing"):
        Config().override(**idle, **{name: value})


@pytest.mark.parametrize("setting", ["rank", "prompt_length"])
def test_a_size_acts_where_it_changes_how_much_trains(tiny_clip: tuple[Path, Path], setting: str) -> None:
    """What the declaration says of each tuner is what the tuner does."""
    acts = marker(SECTIONS["model"], setting, Acts)
    assert acts is not None

    def trained(name: str, size: int) -> int:
        made = fastlift.create_model(
            tiny_clip[0], pretrained=tiny_clip[1], class_names=("a", "b"), init="random", tuner=name, **{setting: size}
        )
        return sum(parameter.numel() for parameter in made.tuner_parameters.values())

    for name in TUNERS:
        assert (trained(name, 1) != trained(name, 2)) == acts.when(tuner=(name,)), name


@pytest.mark.parametrize("command", [predict.run, export.run])
def test_commands_that_only_read_a_run_ask_too(command: Any, tmp_path: Path) -> None:
    flag = "--tte-crops" if command is predict.run else "--expand"
    (tmp_path / "image.jpg").touch()  # a folder without images is told first
    with pytest.raises(UserError, match="would change nothing"):
        command([str(tmp_path), *([str(tmp_path)] if command is predict.run else []), flag, "7"])


def test_defaults_of_a_recipe_may_become_idle() -> None:
    assert recipes.arbitrary_finetune(tuner="full").model.mask_ratio == 0.01
    assert recipes.coop(classifier="cosine", text_tuner="none").model.classifier == "cosine"


def test_flags_are_asked_too() -> None:
    with pytest.raises(UserError, match="coop_length 8 would change nothing here: it is CoOp's"):
        run(["--coop-length", "8"])
