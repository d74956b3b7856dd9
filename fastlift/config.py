"""All settings of a run, composed of those of its parts: frozen, saved with the run, read back from JSON.

A part's settings are declared beside what they build. Here they are composed into the four sections of ``config.json``; the
name of a setting is that of its flag, and unique over all sections.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from fastlift.callbacks.loggers import LogSettings
from fastlift.data.datasets.catalogue import PYTHON, SourceSettings
from fastlift.data.datasets.cutting import CutSettings
from fastlift.data.datasets.dataset import DataSet, no_data_set
from fastlift.data.datasets.long_tail import TailSettings
from fastlift.data.datasets.subset import SubsetSettings
from fastlift.data.datasets.taxon import TaxonSettings
from fastlift.data.index.groups import GroupSettings
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.augmentations import AugmentSettings
from fastlift.data.sampling.class_draws import SamplingSettings
from fastlift.data.sampling.crops import CropSettings
from fastlift.data.sampling.mixing import MixingSettings
from fastlift.data.sampling.shards import ShardOrderSettings
from fastlift.data.stores.cache import CacheSettings
from fastlift.errors import UserError
from fastlift.evaluation.settings import CropBatchSettings
from fastlift.evaluation.thumbnails import ThumbnailSettings
from fastlift.evaluation.validation import ValidationSettings
from fastlift.models.compile import CompileSettings
from fastlift.models.create import ModelSettings
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.fused import FusedSettings
from fastlift.models.precision import PrecisionSettings
from fastlift.models.vit import ActivationCheckpointingSettings
from fastlift.settings import (
    May,
    NamesFile,
    NamesPlace,
    Settings,
    check_effects,
    check_rules,
    converted,
    keywords,
    marker,
    one_of,
)
from fastlift.settings.base import Part
from fastlift.system.files import expand_user, read_json
from fastlift.system.settings import DeviceSettings, MemorySettings, SeedSettings, ThreadSettings, TimeoutSettings
from fastlift.training.averaging import AverageSettings
from fastlift.training.class_shards import ShardSettings
from fastlift.training.learning_rate import LearningRateSettings
from fastlift.training.losses import LossSettings
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.settings import (
    BatchSettings,
    EpochSettings,
    LoopSettings,
    NonFiniteSettings,
    SoupSettings,
    TrainedPartSettings,
    WarmStartSettings,
)
from fastlift.training.stages import ProgressiveSettings

# The bases of a section are read from the last one to the first: so its settings stand in ``--help``. Parts have a ``build``
# of their own each, which a section does not use: ``Config.part`` gives one part's settings.


@dataclass(frozen=True)
class DataConfig(  # type: ignore[misc]
    BadImageSettings,
    LoaderSettings,
    AugmentSettings,
    CropSettings,
    SamplingSettings,
    ShardOrderSettings,
    GroupSettings,
    TaxonSettings,
    SubsetSettings,
    CutSettings,
    TailSettings,
    CacheSettings,
    SourceSettings,
):
    """Which images, and how they are cropped."""


@dataclass(frozen=True)
class TrainingConfig(  # type: ignore[misc]
    AverageSettings,
    LearningRateSettings,
    OptimizerSettings,
    BatchSettings,
    ProgressiveSettings,
    SoupSettings,
    TrainedPartSettings,
    WarmStartSettings,
    EpochSettings,
    MixingSettings,
    LossSettings,
):
    """The loss, the optimiser, and how long the training is."""


@dataclass(frozen=True)
class RunConfig(  # type: ignore[misc]
    MemorySettings,
    TimeoutSettings,
    NonFiniteSettings,
    ShardSettings,
    LoopSettings,
    LogSettings,
    ValidationSettings,
    ThumbnailSettings,
    CropBatchSettings,
    ActivationCheckpointingSettings,
    CompileSettings,
    FusedSettings,
    Fp8Settings,
    PrecisionSettings,
    DeviceSettings,
    ThreadSettings,
    SeedSettings,
):
    """Where and how it runs; apart from the seed, nothing here changes what is computed but rounding."""


SECTIONS: dict[str, type[Settings]] = {
    "data": DataConfig,
    "model": ModelSettings,
    "training": TrainingConfig,
    "run": RunConfig,
}
SECTION_OF = {one.name: section for section, kind in SECTIONS.items() for one in fields(kind)}
assert len(SECTION_OF) == sum(len(fields(kind)) for kind in SECTIONS.values()), "flag names are unique over sections"


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on: the sections ``data``, ``model``, ``training`` and ``run``, and their recipe's name.

    Raises:
        UserError: a setting out of its range, or settings that contradict each other.
    """

    recipe: str = "lift"
    """Where the defaults come from: lift, lift_plus, linear_probe, full_finetune, arbitrary_finetune, lt_soups, coop, zero_shot."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: RunConfig = field(default_factory=RunConfig)
    given: DataSet | None = field(default=None, compare=False, repr=False, metadata={"is_flag": False})
    """The data set as an object, where no setting tells it: not part of ``config.json``, which says ``python`` then."""

    def __post_init__(self) -> None:
        values = self.flat()
        for kind in SECTIONS.values():
            check_rules(kind, values)

    def of_data(self, data: DataSet) -> Config:
        """A copy for this data set: by the settings that load it again, or for one that came from Python by the object.

        Raises:
            UserError: a value that is refused.
        """
        if not isinstance(data, DataSet):
            raise no_data_set(data)
        if data.settings is None:
            root = None if data.train.root is None else str(data.train.root)
            return replace(self.merged(dataset=PYTHON, data_root=root), given=data)
        return self.merged(**data.settings)

    def override(self, **settings: Any) -> Config:
        """A copy with some settings changed; names are those of the flags, without their section.

        Raises:
            UserError: an unknown name, a value that is refused, or a setting that would change nothing beside the others.
        """
        changed = self.merged(**settings)
        changed.check_effects(settings)
        return changed

    def merged(self, **settings: Any) -> Config:
        """As ``override``, but settings without an effect pass: for defaults that others may make idle.

        Raises:
            UserError: an unknown name, or a value that is refused.
        """
        if "model" in settings:  # the weights of another model would not fit
            settings.setdefault("pretrained", default_weights(str(settings["model"])))
        changed: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for name, value in settings.items():
            changed[SECTION_OF[one_of("setting", name, SECTION_OF)]][name] = value
        sections = {
            name: replace(getattr(self, name), **keywords(kind, changed[name])) for name, kind in SECTIONS.items()
        }
        return replace(self, **sections)

    def check_effects(self, given: Iterable[str]) -> None:
        """Refuse what was ``given``, by name, and has no effect here. Raises: UserError, which says what it goes with."""
        check_effects(SECTIONS.values(), self.flat(), Config().flat(), given)

    def idle(self) -> set[str]:
        """The settings that have no effect beside the others, but for those at their defaults."""
        return {name for name in self.flat() if not self._acts(name)}

    def _acts(self, name: str) -> bool:
        try:
            self.check_effects([name])
        except UserError:
            return False
        return True

    def part(self, kind: type[Part]) -> Part:
        """The settings of one part, of class ``kind``, from whatever sections they stand in."""
        return kind.of(self.flat())

    def flat(self) -> dict[str, Any]:
        """All settings by flag name."""
        return {name: getattr(getattr(self, section), name) for name, section in SECTION_OF.items()}


def default_weights(model: str) -> str | None:
    """OpenAI's weights for the architectures that OpenAI trained; None (the model's own, or random) for others."""
    return "openai" if re.fullmatch(r"(RN50|RN101|ViT-B-32|ViT-B-16|ViT-L-14(-336)?)(-quickgelu)?", model) else None


def may_change(config: Config) -> set[str]:
    """Settings that a run with these may be resumed with other values of.

    Micro-batches cut a batch without changing its mean, but for LADE, which compares the images of a micro-batch.
    """
    return marked(May.CHANGE) - ({"micro_batch"} if config.training.loss == "LADE" else set())


def marked(what: May) -> set[str]:
    """The settings whose declaration says that they may ``what``."""
    found = {name: marker(SECTIONS[section], name, May) for name, section in SECTION_OF.items()}
    return {name for name, may in found.items() if may is not None and what in may}


def names_file(name: str, value: Any) -> NamesFile | None:
    """How a setting's value names a file; None where it names none."""
    found = marker(SECTIONS[SECTION_OF[name]], name, NamesFile)
    return found if found is not None and value is not None and found.names_one(value) else None


def absolute_paths(config: Config) -> Config:
    """The same settings with every file and folder named from the root, so that they hold in any working folder."""

    def absolute(path: Path) -> Path:
        return Path(os.path.abspath(expand_user(path)))

    def if_file(text: str) -> str:
        return str(absolute(Path(text))) if expand_user(Path(text)).is_file() else text

    changed: dict[str, Any] = {}
    for name, value in config.flat().items():
        place = marker(SECTIONS[SECTION_OF[name]], name, NamesPlace)
        if place is not None and value is not None:
            changed[name] = str(absolute(Path(value))) if place.is_local(value) else value
        elif (names := names_file(name, value)) is not None:
            changed[name] = names.renamed(value, if_file)
    return config.merged(**{"pretrained": config.model.pretrained} | changed)


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, as ``config.json`` holds them."""
    sections: dict[str, Any] = {name: msgspec.to_builtins(getattr(config, name), enc_hook=str) for name in SECTIONS}
    return {"recipe": config.recipe, **sections}  # str of paths


def from_dict(data: Any) -> Config:
    """The inverse of ``to_dict``; what is missing takes its default.

    Raises:
        UserError: unknown sections or names, values of the wrong type, or settings that are refused.
    """
    if not isinstance(data, dict):
        raise UserError(f"settings: expected an object, got {type(data).__name__}")
    for name in data:
        one_of("setting", name, ["recipe", *SECTIONS])
    recipe = data.get("recipe", "lift")
    if not isinstance(recipe, str):
        raise UserError(f"recipe: expected text, got {recipe!r}")
    sections = {name: converted(kind, data[name], name) for name, kind in SECTIONS.items() if name in data}
    return Config(recipe, **sections)  # type: ignore[arg-type]  # each section is of its kind


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
