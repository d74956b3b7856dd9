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

from fastlift.config import Config, absolute_paths, differences, marked, may_change, names_file
from fastlift.errors import UserError
from fastlift.settings import May
from fastlift.system.files import read_json, write_json


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
        """Refuse another run than this one; the message begins with ``what`` and says in which way it is another."""
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
        return msgspec.convert(values, Identity) if digest == digest_of(values) else None
    except (UserError, msgspec.ValidationError):
        return None


def store_identity(path: Path, identity: Identity) -> None:
    """Write a ``run.json``."""
    values = msgspec.to_builtins(identity)
    write_json(path, values | {"blake2b": digest_of(values)}, parents=False)


def digest_of(values: Any) -> str:
    """BLAKE2b of what is written as JSON."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def settings_digest(config: Config) -> str:
    """BLAKE2b of the settings that change what is computed and differ from their defaults.

    Lists of images are left out and other files count by their names: data and weights have fingerprints of their own,
    and may move.
    """
    named = {name: value for name, (value, _) in differences(absolute_paths(config), Config()).items()}
    free = may_change(config) | marked(May.DIFFER) | marked(May.GROW)
    kept = {
        name: os.path.basename(value) if names_file(name, value) else value
        for name, value in named.items()
        if name not in free
    }
    return digest_of({"recipe": config.recipe, **kept})
