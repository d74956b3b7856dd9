"""The classifier ``text``: CLIP's own, with class features that come from text in every step because parts of it learn (LIFT+).

Here prompt learning (CoOp), CLIP-Adapter, projection tuning and tuners in the text tower have their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlift.errors import UserError
from fastlift.models.backbones import Backbone
from fastlift.models.backbones.backbone import TextTower
from fastlift.models.classifiers import Classifier, ZeroShotClassifier
from fastlift.models.text.features import PromptTextSettings, prompts_for
from fastlift.models.text.tower import TextTransformer, causal_projection, random_context, worded_context
from fastlift.models.text.wordless import warn_of_wordless
from fastlift.models.tuners import TUNERS, TunerSettings, choose_blocks, refusal
from fastlift.models.tuners.adapter import Adapter
from fastlift.models.tuners.base import RankSettings, has_tuner, named, names_with
from fastlift.models.tuners.prompts import PromptSettings
from fastlift.settings import SIZE, Acts, Between, Settings, one_of
from fastlift.settings.validate import Rule
from fastlift.system.memory import check_room, free_bytes

MOST_WORDS = 1024  # no text tower reads as many tokens
# What learns beside the image tower, apart from tuners inside the text tower.
JOINT_TUNERS = ("coop", "clip_adapter", "projection")


class TextClassifier(Classifier):
    """z = scale * <A_i(f P_i), A_t(T P_t)>, both L2-normed, with T the text tower's features of the class prompts.

    A_i and A_t are CLIP-Adapters x + A(x), or nothing. ``scale`` is CLIP's exp(logit_scale), which stays. Where no
    gradient is needed the class features are computed once, and kept until the model trains on or is loaded anew.

    Args:
        text: the text tower with the class prompts.
        projections: CLIP's own to the joint space, of the image [D, E] (None where its features lie there already) and of the
            text [W, E]; they learn where ``tune_projections`` says so.
        adapters: rank of CLIP-Adapters on both sides, or None.

    Source: CoOp (Zhou et al. 2022), CLIP-Adapter (Gao et al. 2021), as LIFT+ uses them.
    """

    normalize = "both"

    def __init__(
        self,
        text: TextTransformer,
        projections: tuple[Tensor | None, Tensor],
        scale: float,
        *,
        tune_projections: bool = False,
        adapters: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.text, self.scale, self.tune_projections = text, scale, tune_projections
        image, text_side = projections
        self.image_projection = None if image is None else nn.Parameter(image.float().clone(), tune_projections)
        self.text_projection = nn.Parameter(text_side.float().clone(), tune_projections)
        joint = text_side.shape[1]
        self.image_adapter = None if adapters is None else Adapter(joint, adapters, generator)
        self.text_adapter = None if adapters is None else Adapter(joint, adapters, generator)
        self._kept: tuple[tuple[int, ...], Tensor] | None = None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Class features [C, E], not normalised, in fp32."""
        if torch.is_grad_enabled():  # a step may follow, and the fused optimiser leaves no trace in the versions
            self._kept = None
            return self._class_features()
        state = tuple(parameter._version for parameter in self.parameters())
        if self._kept is None or self._kept[0] != state or self._kept[1].device != self.text_projection.device:
            self._kept = (state, self._class_features())
        return self._kept[1]

    def _class_features(self) -> Tensor:
        features = self.text().float() @ self.text_projection
        return features if self.text_adapter is None else self.text_adapter(features)

    @torch.no_grad()
    def constant(self) -> ZeroShotClassifier:
        """The same without the text tower: its class features as they are now."""
        projection = None if self.image_projection is None else self.image_projection.detach()
        weight = F.normalize(self.weight, dim=1)
        return ZeroShotClassifier(projection, weight, self.scale, self.image_adapter)

    def prepare(self, features: Tensor) -> Tensor:
        features = features.float()
        if self.image_projection is not None:
            features = features @ self.image_projection
        return features if self.image_adapter is None else self.image_adapter(features)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The context, the projections and the adapters, as far as they learn (tuners in the tower are the model's)."""
        found: dict[str, nn.Parameter | None] = {"context": self.text.context}
        if self.tune_projections:
            found |= {"text_projection": self.text_projection, "image_projection": self.image_projection}
        for side, adapter in (("image_adapter", self.image_adapter), ("text_adapter", self.text_adapter)):
            if adapter is not None:
                found |= named(side, adapter)
        return {name: parameter for name, parameter in found.items() if parameter is not None}

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """The text tower computes in ``dtype``; projections and adapters in fp32."""
        self.text.set_compute_dtype(dtype)
        self._kept = None


def _inside(names: Iterable[str]) -> tuple[str, ...]:
    """The tuners inside the text tower."""
    return tuple(name for name in names if name not in (*JOINT_TUNERS, "none"))


def _refusal(text_tuner: tuple[str, ...]) -> str | None:
    """Why these names are not known, or have no meaning together."""
    if text_tuner == ("none",):
        return None
    for name in text_tuner:
        one_of("text_tuner", name, [*JOINT_TUNERS, *TUNERS])
    if not text_tuner or len(set(text_tuner)) < len(text_tuner) or "none" in text_tuner:
        return f"text_tuner: expected one or several different ones, got {', '.join(text_tuner) or 'nothing'}"
    return refusal(_inside(text_tuner)) if _inside(text_tuner) else None


def _needs_text(text_tuner: tuple[str, ...], classifier: str) -> str | None:
    if text_tuner != ("none",) and classifier != "text":
        return "text_tuner acts on class features from the text tower: use it with classifier text"
    return None


_RANKED = Acts(
    f"the bottleneck of text tuners that have one ({names_with(RankSettings)})",
    lambda text_tuner: has_tuner(RankSettings, text_tuner),
)
_CHOSEN_BLOCKS = Acts(
    "which blocks of the text tower get a tuner, and there is none that has a choice",
    lambda text_tuner: choose_blocks(_inside(text_tuner)),
)
_PROMPTED = Acts(
    "the number of the text tower's prompts (text tuner vpt_...)",
    lambda text_tuner: has_tuner(PromptSettings, text_tuner),
)
_RANDOM_WORDS = Acts(
    "CoOp's with random words (text tuner coop, coop_init random)",
    lambda text_tuner, coop_init: "coop" in text_tuner and coop_init == "random",
)


@dataclass(frozen=True)
class TextSideSettings(Settings):
    """What learns on the text side."""

    text_tuner: tuple[str, ...] = ("none",)
    """What learns on the text side, with classifier 'text': coop (prompt context), clip_adapter, projection, and the
    tuners above inside the text tower; several may be combined."""
    text_rank: Annotated[int, SIZE, _RANKED] = 4
    """Bottleneck width of tuners inside the text tower."""
    text_layers: Annotated[int | tuple[int, ...] | None, _CHOSEN_BLOCKS] = None
    """Blocks of the text tower that get a tuner: all (default), the last k, or indices (of one block: given twice)."""
    text_prompt_length: Annotated[int, SIZE, _PROMPTED] = 2
    """Learned tokens a block of the text tower (tuners vpt_shallow and vpt_deep there)."""
    coop_length: Annotated[int, Between(1, MOST_WORDS), _RANDOM_WORDS] = 4
    """Learned words of CoOp's prompt."""
    coop_position: Annotated[Literal["front", "middle", "end"], _RANDOM_WORDS] = "end"
    """Where the class name stands among the learned words."""
    coop_init: Annotated[
        Literal["random", "prompt"], Acts("CoOp's (text tuner coop)", lambda text_tuner: "coop" in text_tuner)
    ] = "random"
    """Initial values of the learned words: random, or the words of --prompt."""
    clip_adapter_rank: Annotated[
        int,
        SIZE,
        Acts("CLIP-Adapter's (text tuner clip_adapter)", lambda text_tuner: "clip_adapter" in text_tuner),
    ] = 4
    """Bottleneck width of CLIP-Adapters."""

    RULES: ClassVar[tuple[Rule, ...]] = (_refusal, _needs_text)

    def build(
        self,
        backbone: Backbone,
        class_names: Sequence[str],
        prompt: PromptTextSettings,
        image_side: TunerSettings,
        generator: torch.Generator | None = None,
    ) -> tuple[TextClassifier, dict[str, nn.Parameter]]:
        """CLIP's own classifier with its text tower in the graph.

        Args:
            image_side: its masks and whose sizes hold for the text tower too.
            generator: source of the random initial values.

        Returns:
            the classifier, and what trains inside its text tower, under names that begin with ``text.``.

        Raises:
            UserError: no text tower, or one that can only stay frozen; prompts that are not one template.
        """
        tower = backbone.text
        if tower is None:
            raise UserError("this model has no text tower: the classifier 'text' needs one")
        text = self._tower(tower, class_names, prompt, generator)
        adapters = self.clip_adapter_rank if "clip_adapter" in self.text_tuner else None
        if adapters is not None:
            size = 4 * 4 * text.width * adapters  # a way in and a way out, on both sides
            check_room({"clip_adapter_rank": size}, self.values(), free_bytes())
        head = TextClassifier(
            text,
            (backbone.projection, causal_projection(tower)),
            backbone.logit_scale,
            tune_projections="projection" in self.text_tuner,
            adapters=adapters,
            generator=generator,
        )
        trained = self._attach(text, len(class_names), image_side, generator)
        return head, {f"text.{name}": parameter for name, parameter in trained.items()}

    def _tower(
        self,
        tower: TextTower,
        class_names: Sequence[str],
        prompt: PromptTextSettings,
        generator: torch.Generator | None,
    ) -> TextTransformer:
        """The text tower with its class prompts, and CoOp's context among them."""
        template, context = _template(prompt), None
        if "coop" in self.text_tuner and self.coop_init == "prompt":
            context = worded_context(tower, template)
        elif "coop" in self.text_tuner:
            context = random_context(self.coop_length, self.coop_position)
        prompts = prompts_for(class_names, template if context is None else context.template)
        warn_of_wordless(class_names)
        return TextTransformer(tower, [one for (one,) in prompts], context, generator)

    def _attach(
        self, text: TextTransformer, classes: int, image_side: TunerSettings, generator: torch.Generator | None
    ) -> dict[str, nn.Parameter]:
        """The tuners inside the text tower, attached."""
        own = replace(
            image_side,
            tuner=_inside(self.text_tuner) or ("none",),
            rank=self.text_rank,
            lora_rank=self.text_rank,
            layers=self.text_layers,
            prompt_length=self.text_prompt_length,
        )
        try:
            context = own.context(text, classes, generator)
        except UserError as error:  # it begins with the name of the image side's setting
            raise UserError(f"text_{error}") from None
        needs = {f"text_{name}": size for name, size in own.trained_bytes(text, context).items()}
        check_room(needs, {f"text_{name}": value for name, value in own.values().items()}, free_bytes())
        return own.attach(text, context)


def _template(prompt: PromptTextSettings) -> str:
    given = [] if prompt.prompt.startswith("descriptor") else prompts_for(["{}"], prompt.prompt)[0]
    if len(given) != 1 or "{}" not in given[0]:
        raise UserError(
            f"prompt {prompt.prompt!r}: the classifier 'text' takes one template, not several prompts a class"
        )
    return given[0]
