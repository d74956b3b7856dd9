"""Settings that act only beside others: given without them they are refused, since the user expects an effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from fastlift.errors import UserError
from fastlift.settings.validate import check_effects

if TYPE_CHECKING:
    from fastlift.config import Config

RANKED = {"adaptformer", "adapter", "lora", "lora_mlp"}
PROMPTS = {"vpt_shallow", "vpt_deep"}
NOT_IN_TOWER = {"none", "coop", "clip_adapter", "projection"}


def _tuners(*names: str) -> Callable[[Config], bool]:
    return lambda config: bool(set(config.model.tuner) & set(names))


def _text_tuners(*names: str) -> Callable[[Config], bool]:
    return lambda config: bool(set(config.model.text_tuner) & set(names))


def _either_side(name: str) -> Callable[[Config], bool]:
    return lambda config: name in (*config.model.tuner, *config.model.text_tuner)


def _coop_from_random_words(config: Config) -> bool:
    return "coop" in config.model.text_tuner and config.model.coop_init == "random"


def _reads_prompt(config: Config) -> bool:
    model = config.model
    if model.classifier in ("text", "zero_shot"):
        return not _coop_from_random_words(config)
    return model.init == "text"


# Setting -> (whether it acts in a config, what it is, and what it goes with).
USES: dict[str, tuple[Callable[[Config], bool], str]] = {
    "schedule": (
        lambda config: config.data.augmentation == "minimalist",
        "how minimalist crops grow (augmentation minimalist)",
    ),
    "rank": (_tuners(*RANKED), f"the bottleneck of the tuners {', '.join(sorted(RANKED))}"),
    "lora_rank": (_tuners("lora", "lora_mlp"), "LoRA's own bottleneck (tuner lora or lora_mlp)"),
    "layers": (
        lambda config: bool(set(config.model.tuner) - {"none", "vpt_shallow"}),
        "which blocks get a tuner, and there is none that has a choice",
    ),
    "prompt_length": (_tuners(*PROMPTS), "the number of visual prompts (tuner vpt_shallow or vpt_deep)"),
    "mask_ratio": (_either_side("mask"), "the share that the tuner mask trains"),
    "mask_seed": (_either_side("mask"), "the draw of the tuner mask"),
    "scale": (
        lambda config: config.model.classifier == "cosine" or config.training.loss == "LDAM",
        "the cosine classifier's, or of LDAM's margins",
    ),
    "init": (
        lambda config: config.model.classifier not in ("text", "zero_shot"),
        "the start of the classifier's weight, and the classifiers text and zero_shot have none",
    ),
    "prompt": (
        _reads_prompt,
        "what class features are made of (init text, or classifier text or zero_shot; CoOp's with coop_init prompt)",
    ),
    "text_rank": (_text_tuners(*RANKED), f"the bottleneck of the text tuners {', '.join(sorted(RANKED))}"),
    "text_layers": (
        lambda config: bool(set(config.model.text_tuner) - NOT_IN_TOWER - {"vpt_shallow"}),
        "which blocks of the text tower get a tuner, and there is none that has a choice",
    ),
    "text_prompt_length": (_text_tuners(*PROMPTS), "the number of the text tower's prompts (text tuner vpt_...)"),
    "coop_length": (_coop_from_random_words, "CoOp's with random words (text tuner coop, coop_init random)"),
    "coop_position": (_coop_from_random_words, "CoOp's with random words (text tuner coop, coop_init random)"),
    "coop_init": (_text_tuners("coop"), "CoOp's (text tuner coop)"),
    "clip_adapter_rank": (_text_tuners("clip_adapter"), "CLIP-Adapter's (text tuner clip_adapter)"),
}


def check_uses(config: Config, given: Iterable[str]) -> None:
    """Every setting that was given, by flag name, acts in ``config`` or has its default value.

    Raises:
        UserError: one without effect; the message says what it goes with.
    """
    values, defaults = config.flat(), type(config)().flat()
    for name in given:
        acts, meaning = USES.get(name, (None, ""))
        if acts is not None and values[name] != defaults[name] and not acts(config):
            raise UserError(f"{name} {values[name]} would change nothing here: it is {meaning}")
    sections = [type(section) for section in (config.data, config.model, config.training, config.run)]
    check_effects(sections, values, defaults, given)
