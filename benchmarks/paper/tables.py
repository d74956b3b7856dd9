"""The papers' tables as data: which cells they have, and the papers' numbers where a source states them for that cell.

The tables and their settings are those of the authors' scripts. Of LIFT's own cell the accuracy with five crops is
known; all other cells of a paper's column stay empty rather than guessed (docs/recipes.md has
what was found of other methods, whose settings are no cell's).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

FIVE = {"tte": "fivecrop"}

# LIFT with AdaptFormer and five crops, ViT-B/16 CLIP (Shi et al., ICML 2024), accuracy over all classes in %.
PAPER_LIFT = {
    "imagenet_lt": 78.3,
    "places_lt": 52.2,
    "inaturalist2018": 80.4,
    "cifar100_ir100": 81.7,
    "cifar100_ir50": 83.1,
    "cifar100_ir10": 84.9,
}
PAPER_MODEL = "ViT-B-16-quickgelu"


@dataclass(frozen=True, eq=False)
class Cell:
    """One line of a table: a recipe with changes, and how the trained model is tested.

    Attributes:
        is_lift: LIFT itself with five crops, whose accuracy in the paper is known.
        at: in a figure, the place on the axis, and the name of the line ("" where there is one only).
    """

    title: str
    recipe: str = "lift"
    settings: dict[str, Any] = field(default_factory=dict)
    testing: dict[str, Any] = field(default_factory=dict)
    is_lift: bool = False
    at: tuple[float, str] | None = None


@dataclass(frozen=True)
class Table:
    """A table or a figure of a paper; ``axis`` names what changes along a figure."""

    title: str
    source: str
    cells: tuple[Cell, ...]
    axis: str = ""


def _ablation() -> tuple[Cell, ...]:
    bare: dict[str, Any] = {"loss": "CE", "init": "random"}
    return (
        Cell("classifier alone, CE, random init", "linear_probe", bare),
        Cell("+ AdaptFormer", "lift", bare),
        Cell("+ logit adjustment", "lift", {"init": "random"}),
        Cell("+ text init", "lift"),
        Cell("+ five crops (LIFT)", "lift", testing=FIVE, is_lift=True),
    )


def _ablation_plus() -> tuple[Cell, ...]:
    flips: dict[str, Any] = {"augmentation": "random_resized_crop"}
    return (
        Cell("classifier alone, random init", "lift_plus", flips | {"tuner": "none", "init": "random"}),
        Cell("+ AdaptFormer", "lift_plus", flips | {"init": "random"}),
        Cell("+ text init", "lift_plus", flips),
        Cell("+ minimalist augmentation", "lift_plus"),
        Cell("+ five crops (LIFT+)", "lift_plus", testing=FIVE),
    )


def _tuners() -> tuple[Cell, ...]:
    names = (
        "bias",
        "layernorm",
        "vpt_shallow",
        "vpt_deep",
        "adapter",
        "lora",
        "lora_mlp",
        "ssf_attn",
        "ssf_mlp",
        "ssf_ln",
    )
    return (
        Cell("zero-shot", "zero_shot", testing=FIVE),
        Cell("classifier alone", "linear_probe", testing=FIVE),
        Cell("full fine-tuning, lr 0.01", "full_finetune", testing=FIVE),
        Cell("full fine-tuning, lr 0.0005", "full_finetune", {"lr": 0.0005}, FIVE),
        Cell("arbitrary share of all weights", "arbitrary_finetune", testing=FIVE),
        *(Cell(name, "lift", {"tuner": name}, FIVE) for name in names),
        Cell("adaptformer (LIFT)", "lift", testing=FIVE, is_lift=True),
    )


def _inits() -> tuple[Cell, ...]:
    names = ("random", "class_mean_1", "class_mean_10", "class_mean_100", "class_mean", "linear_probe")
    return (
        *(Cell(name, "lift", {"init": name}, FIVE) for name in names),
        Cell("text (LIFT)", "lift", testing=FIVE, is_lift=True),
    )


def _ensembling() -> tuple[Cell, ...]:
    crops = (Cell(f"{k} random crops", "lift", {}, {"tte": "random", "tte_crops": k}) for k in (5, 10, 15, 20))
    return (
        Cell("centre crop"),
        Cell("five crops (LIFT)", testing=FIVE, is_lift=True),
        Cell("ten crops", testing={"tte": "tencrop"}),
        *crops,
    )


def _prompts() -> tuple[Cell, ...]:
    return (
        Cell("no text: random init", "lift", {"init": "random"}, FIVE),
        Cell("class name", "lift", {"prompt": "classname"}, FIVE),
        Cell("default (LIFT)", "lift", testing=FIVE, is_lift=True),
        Cell("ensemble of 80 templates", "lift", {"prompt": "ensemble"}, FIVE),
    )


def _epochs() -> tuple[Cell, ...]:
    return tuple(
        Cell(f"{epochs} epochs, {'five crops' if testing else 'centre crop'}", "lift", {"epochs": epochs}, testing)
        for testing in ({}, FIVE)
        for epochs in (5, 10, 20, 30)
    )


def _classifiers() -> tuple[Cell, ...]:
    scales = (15.0, 20.0, 25.0, 30.0, 35.0)
    return (
        Cell("linear", "lift", {"classifier": "linear"}, FIVE),
        Cell("L2-normed", "lift", {"classifier": "l2"}, FIVE),
        Cell("LayerNormed", "lift", {"classifier": "layernorm"}, FIVE),
        *(Cell(f"cosine, scale {s:.0f}", "lift", {"scale": s}, FIVE, is_lift=s == 25.0) for s in scales),
    )


def _losses() -> tuple[Cell, ...]:
    names = ("CE", "Focal", "LDAM", "CB", "GRW", "BS", "LADE", "LA")
    return tuple(Cell(name, "lift", {"loss": name}, FIVE, is_lift=name == "LA") for name in names)


def _expands() -> tuple[Cell, ...]:
    return tuple(
        Cell(f"expand {pixels}", "lift", {}, FIVE | {"expand": pixels}, is_lift=pixels == 24, at=(pixels, ""))
        for pixels in range(4, 49, 4)
    )


def _ranks() -> tuple[Cell, ...]:
    ranks = tuple(2**power for power in range(9))
    return (
        Cell("classifier alone", "linear_probe", testing=FIVE),
        *(Cell(f"rank {rank}", "lift", {"rank": rank}, FIVE, at=(rank, "")) for rank in ranks),
    )


def _shares() -> tuple[Cell, ...]:
    shares = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    rates = (0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
    return tuple(
        Cell(
            f"share {share:g}, lr {lr:g}",
            "arbitrary_finetune",
            {"mask_ratio": share, "lr": lr},
            at=(share, f"lr {lr:g}"),
        )
        for share in shares
        for lr in rates
    )


def _schedules() -> tuple[Cell, ...]:
    names = ("always_0", "convex", "linear", "concave", "always_1")
    return tuple(Cell(name, "lift_plus", {"schedule": name}, FIVE) for name in names)


# Names of tables -> how to make them; made when asked for, since some are long.
_LIFT, _PLUS = "LIFT", "LIFT+"
_AXES = {"figure4": "share of the weights", "figure6": "rank", "figure11": "expand in pixels"}
_MAKERS: dict[str, tuple[str, str, Callable[[], tuple[Cell, ...]]]] = {
    "table5": ("ablation", _LIFT, _ablation),
    "table6": ("tuners", _LIFT, _tuners),
    "table7": ("classifier init", _LIFT, _inits),
    "table12": ("test-time ensembling", _LIFT, _ensembling),
    "table13": ("prompts of the text init", _LIFT, _prompts),
    "table14": ("epochs", _LIFT, _epochs),
    "table15": ("classifiers", _LIFT, _classifiers),
    "table16": ("losses", _LIFT, _losses),
    "figure4": ("share of arbitrary fine-tuning", _LIFT, _shares),
    "figure6": ("bottleneck width", _LIFT, _ranks),
    "figure11": ("expand of the five crops", _LIFT, _expands),
    "plus-ablation": ("ablation", _PLUS, _ablation_plus),
    "plus-schedules": ("growth of the minimum crop area", _PLUS, _schedules),
}
NAMES = tuple(_MAKERS)


def table(name: str) -> Table:
    """A table by its name in the paper.

    Raises:
        KeyError: an unknown name.
    """
    title, source, make = _MAKERS[name]
    return Table(title, source, make(), _AXES.get(name, ""))


def paper_accuracy(cell: Cell, dataset: str, model: str) -> float | None:
    """The paper's accuracy over all classes in %, where a source states it for this cell."""
    return PAPER_LIFT.get(dataset) if cell.is_lift and model == PAPER_MODEL else None
