"""What images must be before a model sees them, and which crops of each it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from fastlift.data.sampling.crops import EXPAND, RANDOM_CROPS, EvalCrops, EvalKind, Interpolation, crops_per_image
from fastlift.settings import Acts, May, Settings

Ensembling = Literal["none", "fivecrop", "tencrop", "random"]  # what users call the kinds of crops, in their order
_CROPS: dict[str, EvalKind] = dict(zip(get_args(Ensembling), get_args(EvalKind), strict=True))


@dataclass(frozen=True)
class Preprocessing:
    """What images must be before they enter the model: resized to a size in pixels, then (RGB / 255 - mean) / std."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation


@dataclass(frozen=True)
class EnsemblingSettings(Settings):
    """Test-time ensembling: the mean logits of several crops of each image."""

    tte: Annotated[Ensembling, May.CHANGE] = "none"
    """Test-time ensembling (in training: of the last evaluation): mean logits of five, ten, or --tte-crops random crops."""
    tte_crops: Annotated[
        int, RANDOM_CROPS, Acts("how many random crops are taken (tte random)", lambda tte: tte == "random"), May.CHANGE
    ] = 10
    """How many crops 'random' takes."""
    expand: Annotated[
        int | None,
        EXPAND,
        Acts(
            "what five or ten crops add around the image (tte fivecrop or tencrop)",
            lambda tte: _CROPS[tte] in ("five", "ten"),
        ),
        May.CHANGE,
    ] = None
    """Pixels that ensembling adds to the short side before it crops (default: 24; less in proportion below size 224)."""

    @property
    def ensembling_name(self) -> str:
        """What results call it: "center", "fivecrop", "fivecrop+40" (its own expand), "random-10"."""
        if self.tte == "none":
            return "center"
        if self.tte == "random":
            return f"random-{self.tte_crops}"
        return self.tte if self.expand is None else f"{self.tte}+{self.expand}"

    @property
    def crops_per_image(self) -> int:
        """Crops of each image that the model sees."""
        return crops_per_image(_CROPS[self.tte], self.tte_crops)

    def build(self, preprocessing: Preprocessing) -> EvalCrops:
        """The crops that a model is evaluated on."""
        size = preprocessing.image_size
        expand = min(24, round(24 * size / 224)) if self.expand is None else self.expand  # the paper's for 224 pixels
        return EvalCrops(size, _CROPS[self.tte], self.tte_crops, expand, interpolation=preprocessing.interpolation)
