"""All settings of a run: frozen, typed, nested; checked once when made, saved with the run, read back from JSON.

Field docstrings are the ``--help`` of the command line.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fastlift.errors import UserError
from fastlift.evaluation.settings import EnsemblingSettings, EvalSettings
from fastlift.settings.base import Part
from fastlift.settings.names import one_of
from fastlift.settings.ranges import MOST, MOST_THREADS, check_range
from fastlift.settings.uses import check_uses
from fastlift.system.files import expand_user, read_json
from fastlift.system.settings import DeviceSettings, MemorySettings, SeedSettings, ThreadSettings
from fastlift.training.settings import (
    BatchSettings,
    EpochSettings,
    LoopSettings,
    LossSettings,
    NonFiniteSettings,
    SGDSettings,
)

Schedule = Literal["convex", "linear", "concave", "always_0", "always_1"]
Interpolation = Literal["bilinear", "bicubic"]
Taxon = Literal["species", "genus", "family", "order", "class", "phylum", "kingdom"]


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are cropped."""

    dataset: str = "shapes_lt"
    """Data set by name ('fastlift data --help' lists them); 'shapes_lt' is drawn on this machine and needs nothing."""
    data_root: Path | None = None
    """Folder with the images."""
    train_list: Path | None = None
    """List file of the training split: lines of 'relative/path label' (.gz too)."""
    test_list: Path | None = None
    """List file of the test split."""
    class_names: Path | None = None
    """Class-name file for '--dataset list': lines of 'folder name', in the order of the labels."""
    taxon: Taxon = "species"
    """What the classes of iNaturalist are: its species, or their groups at a higher rank."""
    group_boundaries: tuple[int, int] = (20, 100)
    """Classes with fewer training images than the first number are 'few', with more than the second 'many'."""
    augmentation: Literal["random_resized_crop", "minimalist"] = "random_resized_crop"
    """Training views: LIFT's random resized crop with flip, or LIFT+'s square crop whose least area grows."""
    schedule: Schedule = "convex"
    """How the least area of the minimalist crop grows over the epochs."""
    min_scale: float = 0.08
    """Least share of the image's area in a training crop."""
    interpolation: Interpolation = "bilinear"
    """Resizing of training and test images, with antialiasing: bilinear as LIFT, bicubic as LIFT+ and CLIP's own."""
    executor: Literal["auto", "dali", "torchvision"] = "auto"
    """What decodes and crops; both give the same views. 'auto': DALI where it is installed and pays."""
    workers: int | None = None
    """Threads for decoding (default: the CPUs that this process may use, at most 16)."""
    bad_images: Literal["stop", "skip"] = "stop"
    """Unreadable files: stop before training, or replace each by the next good one of its class and list them."""


@dataclass(frozen=True)
class ModelConfig:
    """Which backbone, what learns in it, and how the classifier starts."""

    model: str = "shapes-clip"
    """'shapes-clip' (shipped), an open_clip model name, the path of an open_clip JSON, or 'timm:NAME'."""
    pretrained: str | None = None
    """An open_clip tag (downloaded), or a weights file (.safetensors, or a torch file of tensors). Default: OpenAI's
    weights for their architectures; the shipped model's and timm's own; else random, with a warning."""
    tuner: tuple[str, ...] = ("adaptformer",)
    """What learns inside the ViT: adaptformer, adapter, lora, lora_mlp, vpt_shallow, vpt_deep, ssf_attn, ssf_mlp, ssf_ln,
    bias, layernorm, mask, full, none; several may be combined. For CLIP ResNets: full, bias, batchnorm, ssf, none."""
    rank: int | None = None
    """Bottleneck width (default: 2 ** max(0, floor(log2(C / (2 L)))) for C classes and L blocks)."""
    lora_rank: int | None = None
    """Bottleneck width of LoRA beside tuners of another width (default: --rank, else by --sizes)."""
    layers: int | tuple[int, ...] | None = None
    """Blocks that get a tuner: all (default), the last k (one number), or indices (of one block: given twice)."""
    classifier: Literal["cosine", "linear", "l2", "layernorm", "text", "zero_shot"] = "cosine"
    """Classifier on the class token; 'text' is CLIP's own head with class features from the text tower in every step,
    'zero_shot' the same with nothing that trains."""
    scale: float = 25.0
    """Scale of the cosine classifier, and of LDAM's margins with any."""
    init: Literal["text", "random", "class_mean", "class_mean_1", "class_mean_10", "class_mean_100", "linear_probe"] = (
        "text"
    )
    """Start of the classifier: text features of the class names, random unit rows, mean features of all training images
    of a class (or of 1, 10, 100 of them), or a logistic regression on the training images' features."""
    prompt: str = "default"
    """'default' ("a photo of a {}."), 'classname', 'ensemble', 'descriptor:FILE', or a template with {}."""
    text_tuner: tuple[str, ...] = ("none",)
    """What learns on the text side, with classifier 'text': coop (prompt context), clip_adapter, projection, and the
    tuners above inside the text tower; several may be combined."""
    text_rank: int = 4
    """Bottleneck width of tuners inside the text tower."""
    text_layers: int | tuple[int, ...] | None = None
    """Blocks of the text tower that get a tuner: all (default), the last k, or indices (of one block: given twice)."""
    text_prompt_length: int = 2
    """Learned tokens a block of the text tower (tuners vpt_shallow and vpt_deep there)."""
    coop_length: int = 4
    """Learned words of CoOp's prompt."""
    coop_position: Literal["front", "middle", "end"] = "end"
    """Where the class name stands among them."""
    coop_init: Literal["random", "prompt"] = "random"
    """Start of the learned words: random, or the words of --prompt."""
    clip_adapter_rank: int = 4
    """Bottleneck width of CLIP-Adapters."""
    image_size: int | None = None
    """Pixels, where not the model's own; position embeddings are interpolated."""
    prompt_length: int | None = None
    """Visual prompts a block (default: by --sizes)."""
    mask_ratio: float | None = None
    """Share of the weights that the tuner 'mask' trains (default: by --sizes)."""
    mask_seed: int = 0
    """Seed of the draw of those weights."""
    sizes: Literal["lift", "lift_plus"] = "lift"
    """Whose rule gives the sizes that are not given."""


@dataclass(frozen=True)
class TrainingConfig(LossSettings, EpochSettings, BatchSettings, SGDSettings):  # type: ignore[misc]  # parts build
    """The loss and the optimiser."""


@dataclass(frozen=True)
class RunConfig(  # type: ignore[misc]  # parts build
    EnsemblingSettings,
    EvalSettings,
    NonFiniteSettings,
    LoopSettings,
    MemorySettings,
    DeviceSettings,
    ThreadSettings,
    SeedSettings,
):
    """Where and how it runs; apart from the seed, nothing here changes what is computed but rounding."""

    amp: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Compute dtype of the backbone. 'auto': bf16 on GPUs that multiply it, else fp16; on CPUs the faster of bf16 and fp32,
    as measured at the model's shapes."""
    frozen: Literal["compute", "fp8"] = "compute"
    """Frozen products of the blocks: in the compute dtype, or with fp8 weights and inputs forward (GPUs that have fp8)."""
    compile: Literal["auto", "off", "default", "max"] = "auto"
    """torch.compile of the backbone. 'auto': when the run is long enough to earn the warm-up back; 'max' tunes longer."""
    recompute: Literal["none", "mlp", "block"] = "none"
    """What backward computes again instead of keeping it: less memory, more time."""


SECTIONS: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig, "run": RunConfig}
SECTION_OF = {f.name: section for section, kind in SECTIONS.items() for f in fields(kind)}
POSITIVE = {
    "image_size",
    "scale",
    "coop_length",
    "clip_adapter_rank",
}
# Settings that are whole numbers in a range of their own; all others are below 2^63.
RANGES = {"mask_seed": (0, MOST), "workers": (1, MOST_THREADS)}
assert len(SECTION_OF) == sum(len(fields(kind)) for kind in SECTIONS.values()), "flag names are unique over sections"


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Raises:
        UserError: a setting out of its range, or settings that contradict each other.
    """

    recipe: str = "lift"
    """Where the defaults come from: lift, lift_plus, linear_probe, full_finetune, arbitrary_finetune, coop, zero_shot."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        training, model = self.training, self.model
        for name, value in self.flat().items():
            if isinstance(value, int) and not isinstance(value, bool):
                check_range(name, value, *RANGES.get(name, (-MOST,)))
            if name in POSITIVE and value is not None and not value > 0:
                raise UserError(f"{name}: expected more than 0, got {value}")
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name}: expected a finite number, got {value}")
        boundaries = self.data.group_boundaries
        if len(boundaries) != 2 or not 0 <= boundaries[0] <= boundaries[1]:
            raise UserError(
                f"group_boundaries: expected two numbers of images that do not fall, got {list(boundaries)}"
            )
        if not 0 < self.data.min_scale <= 1:
            raise UserError(f"min_scale: expected a share of the area in (0, 1], got {self.data.min_scale}")
        if model.init not in ("text", "random") and model.classifier in ("text", "zero_shot"):
            raise UserError(f"init {model.init}: the classifier {model.classifier} has no weight of its own to start")
        if model.text_tuner != ("none",) and model.classifier != "text":
            raise UserError("text_tuner acts on class features from the text tower: use it with classifier text")
        if model.classifier == "text" and training.epochs and model.tuner == model.text_tuner == ("none",):
            raise UserError("classifier text without a tuner or text_tuner has nothing that trains (recipe zero_shot)")
        if model.classifier == "zero_shot" and (model.tuner != ("none",) or training.epochs):
            raise UserError(
                "classifier zero_shot does not train: use it with tuner none and epochs 0 (recipe zero_shot)"
            )

    def override(self, **settings: Any) -> Config:
        """A copy with some settings changed; names are those of the flags, without their section.

        Raises:
            UserError: an unknown name, a value that is refused, or a setting that would change nothing beside the others.
        """
        changed = self.merged(**settings)
        check_uses(changed, settings)
        return changed

    def merged(self, **settings: Any) -> Config:
        """As ``override``, but settings without an effect pass: for defaults that others may make idle.

        Raises:
            UserError: an unknown name, or a value that is refused.
        """
        for name in ("tuner", "text_tuner"):
            if isinstance(settings.get(name), str):
                settings[name] = (settings[name],)
        if "model" in settings:  # the weights of another model would not fit
            settings.setdefault("pretrained", default_weights(str(settings["model"])))
        by_section: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            by_section.setdefault(SECTION_OF[one_of("setting", name, SECTION_OF)], {})[name] = value
        data = to_dict(self)
        for section, values in by_section.items():
            data[section].update(_jsonable(values))
        return from_dict(data)

    def part(self, kind: type[Part]) -> Part:
        """The settings of one part, from whatever sections they stand in."""
        return kind.of(self.flat())

    def flat(self) -> dict[str, Any]:
        """All settings by flag name."""
        return {name: getattr(getattr(self, section), name) for name, section in SECTION_OF.items()}


def default_weights(model: str) -> str | None:
    """OpenAI's weights for the architectures that OpenAI trained; None (the model's own, or random) for others."""
    return "openai" if re.fullmatch(r"(RN50|RN101|ViT-B-32|ViT-B-16|ViT-L-14(-336)?)(-quickgelu)?", model) else None


def absolute_paths(config: Config) -> Config:
    """The same settings with every file and folder named from the root, so that they hold in any working folder."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.abspath(expand_user(path)))

    def if_file(value: str) -> str:
        return str(absolute(Path(value))) if expand_user(Path(value)).is_file() else value

    model, data = config.model, config.data
    kind, separator, file = model.prompt.partition(":")
    prompt = f"{kind}:{if_file(file)}" if separator and kind == "descriptor" else model.prompt
    name = if_file(model.model) if model.model.endswith(".json") else model.model
    pretrained = None if model.pretrained is None else if_file(model.pretrained)
    return replace(
        config,
        data=replace(
            data,
            data_root=absolute(data.data_root),
            train_list=absolute(data.train_list),
            test_list=absolute(data.test_list),
            class_names=absolute(data.class_names),
        ),
        model=replace(model, model=name, pretrained=pretrained, prompt=prompt),
    )


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, as ``config.json`` holds them."""
    return _jsonable(asdict(config))


def from_dict(data: dict[str, Any]) -> Config:
    """The inverse of ``to_dict``; what is missing takes its default.

    Raises:
        UserError: unknown sections or names, values of the wrong type.
    """
    return _build(Config, data, "")


def _build(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise UserError(f"settings{where and f' {where}'}: expected an object, got {type(data).__name__}")
    hints = {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}
    values = {}
    for name, value in data.items():
        one_of(f"setting{where and f' in {where}'}", name, hints)
        values[name] = (
            _build(hints[name], value, name) if is_dataclass(hints[name]) else _coerce(hints[name], value, name)
        )
    return kind(**values)


def _coerce(hint: Any, value: Any, name: str) -> Any:
    """A JSON value as the type that a field asks for.

    Raises:
        UserError: it cannot be one.
    """
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return one_of(f"value of {name}", value, options) if isinstance(value, str) else _wrong(name, value, hint)
    if origin is Union or str(origin) == "<class 'types.UnionType'>":
        if value is None and type(None) in options:
            return None
        for option in options:
            try:
                if option is not type(None):
                    return _coerce(option, value, name)
            except UserError:
                continue
        return _wrong(name, value, hint)
    if origin is tuple:
        return (
            tuple(_coerce(options[0], item, name) for item in value)
            if isinstance(value, list)
            else _wrong(name, value, hint)
        )
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str) and isinstance(value, hint) and not isinstance(value, bool):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    return _wrong(name, value, hint)


def _wrong(name: str, value: Any, hint: Any) -> Any:
    raise UserError(f"{name}: expected {_kind(hint)}, got {value!r}")


def _kind(hint: Any) -> str:
    """A type in the words of someone who writes JSON."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(repr(option) for option in options)
    if origin is tuple:
        return f"a list, each item {_kind(options[0])}"
    if options:
        return " or ".join(_kind(option) for option in options)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return names.get(hint, "null")


def load(path: Path) -> Config:
    """Read a config file (a run's ``config.json``, or one written by hand).

    Raises:
        UserError: no such file, not JSON, or settings that are refused.
    """
    try:
        return from_dict(read_json(path))
    except UserError as error:
        raise UserError(f"config file {error}" if str(error).startswith(str(path)) else f"{path}: {error}") from None


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Settings that differ: flag name -> (value in a, value in b)."""
    left, right = a.flat(), b.flat()
    return {name: (left[name], right[name]) for name in left if left[name] != right[name]}


__all__ = [
    "Config",
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "TrainingConfig",
    "absolute_paths",
    "differences",
    "from_dict",
    "load",
    "to_dict",
]
