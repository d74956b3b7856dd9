"""Which run a file belongs to: a name drawn when the run was made, a digest of what it computes, its compute dtype.

It stands in ``run.json`` and in every checkpoint, so that another run's checkpoint, or another seed's, is not taken for
this one's.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from fastlift.config import Config, absolute_paths, differences
from fastlift.errors import UserError
from fastlift.system.files import read_json, write_json

# Settings that a resumed run may change: none of them changes what is computed, but for rounding, and on_nonfinite where a
# run would have stopped. Of the micro-batch see ``may_change``.
OPERATIONAL = {
    "device",
    "workers",
    "threads",
    "memory",
    "executor",
    "checkpoint_steps",
    "log_steps",
    "on_nonfinite",
    "profile",
    "recompute",
    "eval_batch",
    "tte",
    "tte_crops",
    "expand",
    "group_boundaries",
    "data_root",
    "bad_images",
}


def may_change(config: Config) -> set[str]:
    """Settings that a run with these may be resumed with other values of.

    Micro-batches cut a batch without changing its mean, but for LADE, which compares the images of a micro-batch.
    """
    return OPERATIONAL if config.training.loss == "LADE" else OPERATIONAL | {"micro_batch"}


@dataclass(frozen=True)
class Identity:
    """What makes a run this one.

    Attributes:
        run: 128 random bits in hex.
        settings: digest of the settings that change what is computed, the seed among them.
        dtype: compute dtype of the training, whatever ``amp`` was asked for.
    """

    run: str
    settings: str
    dtype: Literal["bf16", "fp16", "fp32"]

    @classmethod
    def new(cls, config: Config, dtype: str) -> Identity:
        """Of a run that is being made."""
        return msgspec.convert({"run": secrets.token_hex(16), "settings": settings_digest(config), "dtype": dtype}, cls)

    def check(self, other: Identity, what: str) -> None:
        """``other`` is this run.

        Raises:
            UserError: it is not; the message begins with ``what`` and says in which way.
        """
        if other.run != self.run:
            raise UserError(f"{what} belongs to another run ({other.run[:8]}, this one is {self.run[:8]})")
        if other.settings != self.settings:
            raise UserError(f"{what} was written with another seed or other settings than this run has")
        if other.dtype != self.dtype:
            raise UserError(f"{what} was trained in {other.dtype}, this run in {self.dtype}")


def load_identity(path: Path) -> Identity | None:
    """The identity in a ``run.json``; None where the file is missing or damaged."""
    try:
        values = read_json(path)
        digest = values.pop("blake2b", None)
        return msgspec.convert(values, Identity) if digest == _digest(values) else None
    except (UserError, msgspec.ValidationError):
        return None


def store_identity(path: Path, identity: Identity) -> None:
    """Write a ``run.json``."""
    values = msgspec.to_builtins(identity)
    write_json(path, values | {"blake2b": _digest(values)}, parents=False)


def _digest(values: Any) -> str:
    return hashlib.blake2b(
        json.dumps(values, sort_keys=True).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()


def settings_digest(config: Config) -> str:
    """BLAKE2b of the settings that change what is computed and differ from their defaults.

    Lists of images are left out and other files count by their names: data and weights have fingerprints of their own,
    and may move.
    """
    named = {name: value for name, (value, _) in differences(absolute_paths(config), Config()).items()}
    kept = {
        name: _without_folder(name, value) for name, value in named.items() if name not in may_change(config) | _LISTS
    }
    return _digest({"recipe": config.recipe, **kept})


_LISTS = {"train_list", "test_list", "class_names"}


def _without_folder(name: str, value: Any) -> Any:
    is_file = name == "pretrained" or (name == "model" and value.endswith(".json"))
    is_file = is_file or (name == "prompt" and value.startswith("descriptor:"))
    return os.path.basename(value) if is_file and value is not None else value
