"""The classifier ``text`` from settings: prompts, CoOp's context, CLIP-Adapters, projections, tuners in the text tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from fastlift.errors import UserError
from fastlift.models import tuners
from fastlift.models.backbones import Backbone
from fastlift.models.footprint import trained_bytes
from fastlift.models.text.classifier import Projections, TextClassifier
from fastlift.models.text.features import TextTower, prompts_for
from fastlift.models.text.tower import (
    Context,
    CoopPosition,
    TextTransformer,
    causal_projection,
    random_context,
    worded_context,
)
from fastlift.settings.names import one_of
from fastlift.settings.ranges import MOST_SIZE, check_range
from fastlift.system.memory import check_room, free_bytes

CoopInit = Literal["random", "prompt"]
MOST_WORDS = 1024  # no text tower reads as many tokens
# What learns beside the image tower, apart from tuners inside the text tower.
JOINT_TUNERS = ("coop", "clip_adapter", "projection")


@dataclass(frozen=True)
class TextSide:
    """What ``create_model`` was asked for on the text side; ``rank``, ``layers`` and ``prompt_length`` are its ``text_...``."""

    tuners: tuple[str, ...]
    prompt: str
    coop_length: int
    coop_position: CoopPosition
    coop_init: CoopInit
    clip_adapter_rank: int
    rank: int
    layers: int | Sequence[int] | None
    prompt_length: int
    mask_ratio: float | None


def check_text_tuners(names: Sequence[str], classifier: str) -> None:
    """Known names that have a meaning together and with the classifier.

    Raises:
        UserError: an unknown one, one named twice, two that conflict, or a classifier that reads no text.
    """
    if list(names) == ["none"]:
        return
    if classifier != "text":
        raise UserError("text_tuner acts on class features that are made in every step: use it with classifier='text'")
    for name in names:
        one_of("text_tuner", name, [*JOINT_TUNERS, *tuners.TUNERS])
    if not names or len(set(names)) < len(names) or "none" in names:
        raise UserError(f"text_tuner: expected one or several different ones, got {', '.join(names) or 'nothing'}")
    inside = _inside(names)
    if inside:
        tuners.check_names(inside)


def build_text_head(
    backbone: Backbone, class_names: Sequence[str], side: TextSide, settings: tuners.TunerSettings
) -> tuple[TextClassifier, dict[str, nn.Parameter]]:
    """CLIP's own classifier with its text tower in the graph.

    Args:
        settings: the image side's: the text side has its seed, its draw of masks and its source of random starts.

    Returns:
        the classifier, and what trains inside its text tower, under names that begin with ``text.``.

    Raises:
        UserError: no text tower, or one that can only stay frozen; prompts that are not one template.
    """
    tower = backbone.text
    if tower is None:
        raise UserError("this model has no text tower: the classifier 'text' needs one")
    template, context = _template(side.prompt), None
    if "coop" in side.tuners:
        context = _context(tower, template, side)
        template = context.template
    text = TextTransformer(tower, [prompts[0] for prompts in prompts_for(class_names, template)], context)
    if context is not None and side.coop_init == "random":
        text.start_context(context.length, settings.generator)
    elif context is not None:
        text.start_context_from_words()
    if "clip_adapter" in side.tuners:
        check_range("clip_adapter_rank", side.clip_adapter_rank, 1, MOST_SIZE)
        size = 4 * 4 * text.width * side.clip_adapter_rank  # a way in and a way out, on both sides
        check_room({"clip_adapter_rank": size}, {"clip_adapter_rank": side.clip_adapter_rank}, free_bytes())
    head = TextClassifier(
        text,
        Projections(backbone.projection, causal_projection(tower)),
        backbone.logit_scale,
        tune_projections="projection" in side.tuners,
        adapters=side.clip_adapter_rank if "clip_adapter" in side.tuners else None,
        generator=settings.generator,
    )
    inside = _inside(side.tuners)
    try:
        own = tuners.resolve(
            text,
            classes=len(class_names),
            rank=side.rank,
            layers=side.layers,
            prompt_length=side.prompt_length,
            mask_ratio=side.mask_ratio,
            mask_seed=settings.mask_seed,
            sizes=settings.mask_draw,
            generator=settings.generator,
        )
    except UserError as error:  # it begins with the name of the image side's setting
        raise UserError(f"text_{error}") from None
    needs = {f"text_{name}": size for name, size in trained_bytes(text, inside, own).items()}
    values = {"text_rank": side.rank, "text_lora_rank": side.rank, "text_prompt_length": side.prompt_length}
    check_room(needs, values, free_bytes())
    trained = tuners.attach(text, inside, own) if inside else {}
    return head, {f"text.{name}": parameter for name, parameter in trained.items()}


def _inside(names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in JOINT_TUNERS and name != "none"]


def _template(prompt: str) -> str:
    given = [] if prompt.startswith("descriptor") else prompts_for(["{}"], prompt)[0]
    if len(given) != 1 or "{}" not in given[0]:
        raise UserError(f"prompt {prompt!r}: the classifier 'text' takes one template, not several prompts a class")
    return given[0]


def _context(tower: TextTower, template: str, side: TextSide) -> Context:
    check_range("coop_length", side.coop_length, 1, MOST_WORDS)
    one_of("coop_position", side.coop_position, CoopPosition.__args__)  # type: ignore[attr-defined]
    one_of("coop_init", side.coop_init, CoopInit.__args__)  # type: ignore[attr-defined]
    if side.coop_init == "prompt":
        return worded_context(tower, template)
    return random_context(side.coop_length, side.coop_position)
